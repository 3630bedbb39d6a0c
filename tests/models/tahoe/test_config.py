"""The yaml files: defaults when a key is absent, keys that are ignored, options that are refused."""

import pytest

from engine.models.errors import ModelError
from engine.models.tahoe.config import ChemicalConfig, TahoeConfig, collator_from_yaml, from_yaml, to_yaml

SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2}


def read(**model: object) -> TahoeConfig:
    return from_yaml(SIZES | model, {}, vocab_size=64, chemical=None)


def test_defaults_of_absent_keys() -> None:
    config = read(mvc={})
    assert (config.norm_scheme, config.transformer_activation, config.norm_eps) == ("pre", "gelu", 1e-5)
    assert (config.value_activation, config.value_use_norm, config.gene_use_norm) == ("relu", False, False)
    assert (config.decoder_layers, config.decoder_activation, config.mvc_scaled) == (2, "leaky_relu", False)
    collator = config.collator
    assert (collator.num_bins, collator.keep_first_n_tokens, collator.right_binning) == (51, 1, False)


def test_keys_without_effect_are_ignored() -> None:
    ignored = {
        "attn_config": {"kv_nheads": 1, "qk_ln": True, "clip_qkv": 3, "softmax_scale": 9},
        "init_device": "meta",
    }
    assert read(**ignored) == read()
    assert collator_from_yaml({"data_style": "gen", "unheard_of": 1}) == collator_from_yaml({})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"cell_emb_style": "w-pool"}, "cell_emb_style is 'w-pool'; supported: 'cls'"),
        ({"mvc": {"arch_style": "concat query"}}, "arch_style"),
        ({"norm_config": {"norm_type": "rmsnorm"}}, "norm_type"),
        ({"gene_encoder": {"embeddings": {"esm2": {}}}}, "extra gene embeddings"),
        ({"norm_scheme": "both"}, "expected pre or post"),
        ({"transformer_activation": "mish"}, "'mish' is not known"),
        ({"n_heads": 3}, "not a multiple of n_heads"),
    ],
)
def test_options_that_would_change_numbers_are_refused(option: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(**option)


def test_sizes_must_be_there() -> None:
    with pytest.raises(ModelError, match="d_model, n_heads is missing"):
        from_yaml({"n_layers": 2}, {}, vocab_size=64, chemical=None)


def test_written_and_read_again() -> None:
    chemical = ChemicalConfig(n_drugs=4, n_bits=8, activation="relu")
    config = TahoeConfig(64, 16, 2, 2, use_glu=True, norm_scheme="post", mvc=False, chemical=chemical)
    assert from_yaml(*to_yaml(config), vocab_size=64, chemical=chemical) == config
