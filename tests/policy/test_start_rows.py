import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from policy.start_rows import start_rows
from policy.vocabulary import Vocabulary, nano_tokenizer


def model_of(rows: int, tied: bool, pretrained: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    model.config.name_or_path = "somewhere" if pretrained else ""
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("dimensions", [8, 40])
def test_new_rows_start_at_the_norm_of_the_table_and_alike_for_like_codes(make_catalog, tied, pretrained, dimensions):
    catalog = make_catalog(60, dimensions=dimensions)
    book = catalog.codebooks[0]
    book[1] = book[0] + 0.01 * book[3]
    tokenizer = nano_tokenizer(catalog)
    vocabulary = Vocabulary.of(tokenizer, catalog)
    words = min(vocabulary.ids.values())
    model = model_of(words if pretrained else len(tokenizer), tied, pretrained)
    before = model.get_input_embeddings().weight[:words].detach().clone()
    start_rows(model, tokenizer, vocabulary, catalog, seed=0)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        assert len(table) == len(tokenizer)
        new = table[vocabulary.first + 4 : vocabulary.first + vocabulary.size].detach()
        norm = table[:words].norm(dim=1).mean()
        assert torch.allclose(new.norm(dim=1), norm.expand(len(new)), rtol=1e-4)
        like = torch.nn.functional.cosine_similarity(new[:1], new[1:4])
        assert like[0] > (0.6 if pretrained else 0.99)  # a pretrained model's rows are half made of tags
        assert like[0] > like[1:].max()
        if pretrained:
            history = table[vocabulary.ids["<history>"]].detach()
            assert float(history.norm()) == pytest.approx(float(norm), rel=1e-4)
    assert torch.equal(model.get_input_embeddings().weight[:words], before)


def test_the_same_seed_starts_the_same_rows(make_catalog):
    catalog = make_catalog(60)
    tokenizer = nano_tokenizer(catalog)
    vocabulary = Vocabulary.of(tokenizer, catalog)
    tables = []
    for seed in (3, 3, 4):
        model = model_of(len(tokenizer), True, False)
        start_rows(model, tokenizer, vocabulary, catalog, seed)
        tables.append(model.get_input_embeddings().weight.detach().numpy())
    assert np.array_equal(tables[0], tables[1])
    assert not np.array_equal(tables[0], tables[2])
