"""A random Llama of some hundred thousand weights, made in a second: a test double with weights.

Tests of the whole graph need a model that vLLM serves and TRL trains, and that answers in
milliseconds. It knows nothing, but it is not uniform: a random model would put a thousandth of its
probability on any label, every verdict would be "unknown", and no pair would ever be made. So
each embedding carries the same constant in its first dimension, which turns the output layer's
first column into a bias, and that bias makes labels and the end of a turn likely enough for every
path of the pipeline to be walked.

The tokenizer is a byte-level BPE over a word list, with ChatML and one token for each label.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cosalign.inference.gguf_import import write_model_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LABELS = (" Y", " N", " A", " B", " C", " D", " E", " F")
VOCABULARY = 1024
CONTEXT = 8192
HIDDEN = 64

# Tuned by eye: labels take half of the mass or more, " Y" and " N" each win on some prompts, and
# some answers end before their limit.
CONSTANT = 8.0
SPREAD = 0.24
QUERY_SPREAD = 0.6
HEAD_SPREAD = 0.14
YES_NO_CONTRAST = 1.5
BIAS_OF_LABELS = 4.2
BIAS_OF_END = 4.2

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_TEXT = """
a about above accept account across act add address after again against age ago agree all allow
allowed almost also always amount and another answer any appear apply area argue arm around arrive
art ask assistant at attack away back ban be because become before begin behaviour believe best
better between beyond big body book both bring build business but buy by call can care carry case
category cause certain change child choose city claim clear close code come company concern
condition config consider contain content continue control cost could country course create crime
cut damage data day deal decide decline define describe design detail die different direct do does
down draw drive drug during each early eat effect either else end enough even ever every example
exist expect explain face fact fall far fast feel few figure fill find fire first follow food for
forbidden force form free friend from full game general get give go good great group grow guide
hand happen hard harm have head hear help helpful her here high him his hold home hope hour house
how human idea if important in include inform inside instead into is issue it its join just keep
kind know large last late law lead learn leave left less let letter level lie life like limit line
list little live local long look lose low make many mark matter may mean measure member message
method might mind minute miss money month more most move much must name nature near need never new
next night no none not note nothing now number of off offer office often old on once one only open
or order other our out over own page part pass pay people perhaps person place plan play please
point police policy position possible power present press price privacy private probably problem
process produce prompt protect provide public put question quick rather read ready real reason
receive record reduce refuse region reply report request require respond response result return
right risk rise rule run safe safety same say school second see seem sell send sense serve service
set several shall share she short should show side sign since sit small so some something soon speak
special stand start state stay step still stop story street strong study such suggest support sure
system take talk teach tell term test text than that the their them then there these they thing
think this those though three through time to today together too topic toward town trade true try
turn two type under understand unless until up use user value very view violence visit voice wait
walk want war watch water way we weapon week well what when where whether which while who whole why
will win wish with within without woman word work world would write wrong year yes yet you young
your
"""
WORDS = tuple(_TEXT.split())


def build_tiny_model(out: Path, seed: int = 0) -> Path:
    """Writes the tiny model's folder; the same seed gives the same bytes.

    Args:
        out: The folder to make. Where it holds a finished model, nothing is done.
        seed: Seed of the weights. The tokenizer is always the same.

    Returns:
        ``out``.

    Raises:
        ModelError: ``out`` exists and is no model, or cannot be written.
    """
    return write_model_folder(out, lambda folder: _write(folder, seed))


def _write(folder: Path, seed: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = _train_tokenizer()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=CONTROLS[1],
        eos_token=CONTROLS[2],
        pad_token=CONTROLS[0],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.token_to_id(CONTROLS[1]),
        eos_token_id=tokenizer.token_to_id(CONTROLS[2]),
        pad_token_id=tokenizer.token_to_id(CONTROLS[0]),
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        _draw_weights(model, tokenizer)
    model.to(torch.bfloat16).save_pretrained(folder)


def _draw_weights(model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    """Random weights, and the bias. In place; the caller has set the seed."""
    from torch import nn

    for name, weights in sorted(model.named_parameters()):
        if not name.endswith("norm.weight"):
            nn.init.normal_(weights, std=_spread(name))
    for name, weights in model.model.layers.named_parameters():
        # The constant belongs to the output layer: no layer reads it or writes over it.
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[0] = 0.0
        elif name.endswith("_proj.weight"):
            weights[:, 0] = 0.0
    yes, no = (tokenizer.encode(label).ids[0] for label in LABELS[:2])
    head = model.lm_head.weight
    head[yes] *= YES_NO_CONTRAST
    head[no] = -head[yes]
    model.model.embed_tokens.weight[:, 0] = CONSTANT
    head[:, 0] = 0.0
    head[[tokenizer.encode(label).ids[0] for label in LABELS], 0] = BIAS_OF_LABELS
    head[tokenizer.token_to_id(CONTROLS[2]), 0] = BIAS_OF_END


def _spread(name: str) -> float:
    if name == "lm_head.weight":
        return HEAD_SPREAD
    # Sharp attention, since an average over hundreds of tokens is the same for every prompt.
    return QUERY_SPREAD if name.endswith(("q_proj.weight", "k_proj.weight")) else SPREAD


def _train_tokenizer() -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(control, special=True) for control in CONTROLS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Labels come often enough to be merged before anything else.
    corpus = ["".join(LABELS)] * 100 + [f" {word}" for word in WORDS]
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer
