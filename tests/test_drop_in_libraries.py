"""Models of Hugging Face, freshly initialised and tiny: inputs by name, `.logits`, low-rank adapters."""

import warnings

import numpy as np
import pytest
import torch

import hmc_fast

transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # other people's deprecations

N = 18
TOKENS = torch.arange(N * 8).reshape(N, 8) % 50
MASK = (torch.arange(N)[:, None] % 2 * 3 + torch.arange(8) < 8).long()
TEXT = {"input_ids": TOKENS, "attention_mask": MASK}
IMAGES = torch.randn(N, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % 3
SMALL = {"num_labels": 3, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
GPT2 = {"vocab_size": 50, "n_positions": 20, "n_embd": 16, "n_layer": 1, "n_head": 2, "pad_token_id": 0}


def bert():
    config = transformers.BertConfig(vocab_size=50, num_hidden_layers=2, max_position_embeddings=20, **SMALL)
    return transformers.BertForSequenceClassification(config).eval()


def distilbert():
    config = transformers.DistilBertConfig(
        vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32, num_labels=3, max_position_embeddings=20
    )
    return transformers.DistilBertForSequenceClassification(config).eval()


def gpt2():
    return transformers.GPT2ForSequenceClassification(transformers.GPT2Config(num_labels=3, **GPT2)).eval()


def vit():
    config = transformers.ViTConfig(image_size=16, patch_size=4, num_hidden_layers=1, **SMALL)
    return transformers.ViTForImageClassification(config).eval()


def with_adapters():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"], lora_dropout=0.0)
    return peft.get_peft_model(bert(), config).eval()


def last_layer():
    model = bert().requires_grad_(False)
    model.classifier.requires_grad_(True)
    return model


MODELS = {
    "bert": (bert, TEXT),
    "bert, tokens alone": (bert, TOKENS),
    "bert, last layer": (last_layer, TEXT),
    "bert, low-rank adapters": (with_adapters, TEXT),
    "distilbert": (distilbert, TEXT),
    "gpt2": (gpt2, TOKENS),
    "vit": (vit, {"pixel_values": IMAGES}),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_samples_predicts_and_scores(name):
    make, inputs = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    posterior = hmc_fast.Posterior(model, (inputs, LABELS))
    options = {"chains": 2, "burn_in": 1, "draws": 3, "init": "model", "progress": False}
    run = hmc_fast.run(posterior, hmc_fast.HMC(1e-3, num_leapfrog=2), test=(inputs, LABELS), **options)
    again = run.predict(inputs, batch_size=7)
    np.testing.assert_allclose(again.probs, run.test.probs, atol=5e-3)
    assert np.isfinite(again.nll(LABELS))
    with torch.no_grad():
        expected = (model(**inputs) if isinstance(inputs, dict) else model(inputs)).logits
    found = posterior.outputs(posterior.initial("model", 1, 0), posterior.inputs(inputs))[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_dropout_is_refused():
    with pytest.raises(hmc_fast.UserError, match=r"Dropout at 'bert.embeddings.dropout' .* model.eval"):
        hmc_fast.Posterior(bert().train(), (TEXT, LABELS))


def test_torchs_remarks_on_vmap_do_not_reach_the_user():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        posterior = hmc_fast.Posterior(bert(), (TEXT, LABELS))
    assert posterior.vmap_refusal.startswith("no batching rule for aten::")
    assert not [w for w in seen if "performance drop" in str(w.message)]
