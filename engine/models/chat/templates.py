"""How a conversation about cells is written: the one place for training and for serving.

A turn of the user holds the cells it is about as `<image>`, which stands for soft tokens. Where a training
file puts them in the turn does not matter: they always come behind the words, as in CellWhisperer's web
application (whose own training puts them in front).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.models.errors import ModelError

CELLS = "<image>"
# Letters that stand for selections in a turn with several of them.
NAMES = "ABCDEFGH"
# CellWhisperer's bound on the first question, in characters.
FIRST_QUESTION = 1_200
N_TOP_GENES, N_TOP_NORMALISED = 50, 20

Role = Literal["user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """What one side says. n_cells: selections of cells that come with it (the user's only)."""

    role: Role
    text: str
    n_cells: int = 0


@dataclass(frozen=True)
class Template:
    """user, answer: how turns are written. stop: the token that ends an answer; "" for the tokeniser's own.
    after: what follows it. markers: what a turn's text must not hold, or it would begin another turn.
    """

    user: str
    answer: str
    stop: str = ""
    after: str = ""
    markers: tuple[str, ...] = ()


TEMPLATES = {
    "mistral": Template("[INST] {} [/INST]", " {} ", markers=("[INST]", "[/INST]")),
    "chatml": Template(
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
        "{}",
        stop="<|im_end|>",
        after="\n",
        markers=("<|im_start|>", "<|im_end|>"),
    ),
    "llama3": Template(
        "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "{}",
        stop="<|eot_id|>",
        markers=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
}


@dataclass(frozen=True)
class Written:
    """A conversation as text. answers: ranges of characters that the assistant says, its stop included."""

    text: str
    answers: tuple[tuple[int, int], ...]


def write(turns: Sequence[Turn], template: Template, stop: str) -> Written:
    """The text of a conversation: a training example when it ends with an answer, a prompt otherwise.

    stop: the token that ends an answer. Raises ModelError unless the sides take turns, the user first.
    """
    wanted = ["user", "assistant"] * (len(turns) // 2) + ["user"] * (len(turns) % 2)
    if not turns or [turn.role for turn in turns] != wanted:
        raise ModelError("a conversation must begin with the user, and the sides must take turns")
    text, answers = "", []
    for turn in turns:
        words = _with_cells(_without(turn.text, (*template.markers, stop, CELLS)), turn.n_cells)
        if turn.role == "user":
            text += template.user.format(words)
            continue
        said = template.answer.format(words) + stop
        answers.append((len(text), len(text) + len(said)))
        text += said + template.after
    return Written(text, tuple(answers))


def _with_cells(words: str, n_cells: int) -> str:
    if n_cells > len(NAMES):
        raise ModelError(f"{n_cells} selections of cells in one turn; at most {len(NAMES)}")
    if n_cells < 2:
        return words + f"\n{CELLS}" * n_cells
    return "\n".join([words, *(f"{name}: {CELLS}" for name in NAMES[:n_cells])])


def _without(words: str, markers: Sequence[str]) -> str:
    """Again and again: taking one marker out may leave another."""
    before = None
    while before != words:
        before = words
        for marker in filter(None, markers):
            words = words.replace(marker, "")
    return words.strip()


def opening(top_genes: Sequence[str]) -> list[Turn]:
    """The exchange that CellWhisperer's web application puts before every conversation, in its words: they
    are what its model was tuned with. (llava_conversation.py in epigen/cellxgene, MIT.)

    top_genes: the selection's, strongest first, 50 of them.
    """
    first = ", ".join(top_genes[:N_TOP_NORMALISED])
    rest = ", ".join(top_genes[N_TOP_NORMALISED:N_TOP_GENES])
    return [
        Turn(
            "user",
            "Help me analyzing this sample of cells. Respond in proper english in a tone of uncertainty and "
            "focus on the biology of the sample rather than any potential donor or patient information (e.g. "
            f"do not mention age and sex). Start by listing the top {N_TOP_GENES} genes.",
        ),
        Turn(
            "assistant",
            "Sure. I'll respond as you requested, focusing on the sample of cells and avoiding any personal "
            f"information. It looks like the {N_TOP_NORMALISED} top normalized genes are {first}.\n"
            f"Still remarkably strong expressed seem the genes {rest}. Note that there are even more "
            "strongly expressed genes beyond the ones I just listed.",
        ),
    ]


def original_turns(turns: Sequence[Turn], top_genes: Sequence[str]) -> list[Turn]:
    """A conversation as CellWhisperer's web application sends it: its opening, the first question cut, the
    cells with the first question alone.
    """
    first, *others = turns
    asked = Turn("user", first.text[:FIRST_QUESTION], first.n_cells)
    return [*opening(top_genes), asked, *others]
