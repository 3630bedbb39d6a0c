"""Small random language models with tokenisers of their own, made offline."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

WIDTH = 32
CORPUS = (
    "What are these cells? They seem to be T cells, B cells, monocytes, natural killer cells or platelets. "
    "[INST] user assistant Describe these cells in detail. [/INST] This is a sample of blood; of the spleen."
)


def tokeniser_of(texts: list[str], template: str = "mistral", vocabulary: int = 400) -> Any:
    """A byte-level BPE trained on these texts, with the special tokens of a template."""
    names = {
        "mistral": "<s> </s>",
        "chatml": "<|endoftext|> <|im_start|> <|im_end|>",
        "llama3": "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>",
    }
    specials = names[template].split()
    tokeniser = Tokenizer(models.BPE())
    tokeniser.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokeniser.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokeniser.train_from_iterator(texts, trainer)
    ends = {"eos_token": specials[0] if template == "chatml" else specials[1]}
    begins = {} if template == "chatml" else {"bos_token": specials[0]}
    return PreTrainedTokenizerFast(tokenizer_object=tokeniser, **begins, **ends)


def language_model_directory(
    directory: Path, texts: list[str] | None = None, family: str = "llama", template: str = "mistral"
) -> str:
    """A directory as the hub has them: config.json, model.safetensors, tokenizer.json."""
    tokeniser = tokeniser_of(texts or [CORPUS], template)
    n = len(tokeniser)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    ids = {"bos_token_id": tokeniser.bos_token_id, "eos_token_id": tokeniser.eos_token_id}
    torch.manual_seed(0)
    if family == "llama":
        model: Any = LlamaForCausalLM(
            LlamaConfig(vocab_size=n, num_key_value_heads=2, max_position_embeddings=512, **sizes, **ids)
        )
    elif family == "qwen2":
        config = Qwen2Config(vocab_size=n, num_key_value_heads=1, tie_word_embeddings=True, **sizes, **ids)
        model = Qwen2ForCausalLM(config)
    else:
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=n, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=256, **ids)
        )
    model.save_pretrained(directory)
    tokeniser.save_pretrained(directory)
    return str(directory)
