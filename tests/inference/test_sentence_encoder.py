"""The real small encoder, from its Python package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosalign.domain.errors import ModelError
from cosalign.domain.run_config import JudgingGroup
from cosalign.inference.architectures import ENCODERS
from cosalign.inference.models import resolve_model
from cosalign.inference.sentence_encoder import SentenceEncoder

TEXTS = [
    "I like ale.",
    "",
    "A long swim in the cold sea before breakfast.",
    "Beer tastes good to me.",
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SentenceEncoder:
    cache = tmp_path_factory.mktemp("cache")
    return SentenceEncoder(resolve_model(JudgingGroup().embedder, cache, ENCODERS).path)


def test_vectors_have_unit_length_and_keep_the_order(encoder: SentenceEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert np.abs(vectors - alone).max() < 1e-5


def test_texts_of_one_meaning_are_near(encoder: SentenceEncoder) -> None:
    ale, _, swim, beer = encoder.encode(TEXTS)
    assert ale @ beer > 0.3 > ale @ swim


def test_the_same_texts_give_the_same_bits(encoder: SentenceEncoder) -> None:
    assert encoder.encode(TEXTS).tobytes() == encoder.encode(TEXTS).tobytes()


def test_texts_that_are_no_unicode_are_encoded_all_the_same(encoder: SentenceEncoder) -> None:
    assert np.isfinite(encoder.encode(["ale \ud800 beer"])).all()


def test_an_encoder_cannot_generate_and_is_refused_as_a_generator(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="BertModel, which is not supported"):
        resolve_model(JudgingGroup().embedder, tmp_path)


def test_an_unreadable_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the sentence encoder in .* cannot be read"):
        SentenceEncoder(tmp_path)
