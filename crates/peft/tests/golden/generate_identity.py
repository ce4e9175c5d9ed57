"""Makes the golden cases of what a model ties, of vocabularies with other tokens, and of newer fields of PEFT.

    pip install -r requirements.txt
    python generate_identity.py              # writes public/
    python generate_identity.py --check DIR  # DIR/<case>/ are merged checkpoints that lora-peft wrote (the test
                                             # public_identity, with LORA_PEFT_MERGED_DIRECTORY=DIR): transformers must load
                                             # them without a missing weight, and with the outputs of the adapted model

Each case is a directory: `base/` and `adapter/`, `expected/model.safetensors` (the tensors that the merge changes or adds) and
`case.json`: which keys of config.json change, and how the expected values were found. They are PEFT's, except where tied
weights part ways: a head that the adapter does not name keeps what the base has.
"""

import argparse
import json
import pathlib
import shutil
import sys
import tempfile
import warnings

import torch
import transformers
from generate import randomize
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import BdLoraConfig, MontecloraConfig, VeloraConfig
from safetensors.torch import load_file, save_file

PUBLIC = pathlib.Path(__file__).parent / "public"
TINY = dict(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, head_dim=4, max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
ENCODER = dict(
    vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
T5 = dict(vocab_size=40, d_model=16, d_ff=24, d_kv=4, num_layers=1, num_decoder_layers=1, num_heads=4)
WHISPER = dict(
    ENCODER, max_source_positions=20, max_target_positions=20, num_mel_bins=8, suppress_tokens=None,
    begin_suppress_tokens=None, decoder_start_token_id=1,
)
WHISPER.pop("max_position_embeddings")
QWEN_VL = dict(
    tie_word_embeddings=True,
    text_config=dict(TINY, tie_word_embeddings=True, rope_parameters=dict(
        rope_type="default", rope_theta=1e4, mrope_section=[1, 1, 0])),
    vision_config=dict(
        depth=1, hidden_size=16, intermediate_size=24, num_heads=4, out_hidden_size=16, patch_size=4,
        num_position_embeddings=16, deepstack_visual_indexes=[0]),
)
FALCON = {key: value for key, value in TINY.items() if key not in ("head_dim", "num_key_value_heads", "intermediate_size")}
Q = ["query", "value"]
QV = ["q_proj", "v_proj"]
LLAMA = "LlamaForCausalLM"
TIED = dict(TINY, tie_word_embeddings=True)


def case(name, model, config, adapter, **more):
    return dict(name=name, model=model, config=config, adapter=adapter, **more)


# `parted`: head that parts ways, and the tensor that it is a copy of. `moved`: head that changes, and the tensor that it parts
# from. `resize`: tokens added before training. `as`: type of
# the base. `shards`: size of a base's files. `changes`: keys of config.json.
UNTIED = {"tie_word_embeddings": False}
CASES = [
    case("bloom-save", "BloomForCausalLM", dict(TINY, n_layer=1, n_head=4),
         dict(target_modules=["query_key_value"], modules_to_save=["word_embeddings"]),
         parted={"lm_head.weight": "transformer.word_embeddings.weight"}, changes=UNTIED),
    case("falcon-target-bf16", "FalconForCausalLM", dict(FALCON, tie_word_embeddings=True),
         dict(target_modules=["query_key_value", "word_embeddings"]),
         parted={"lm_head.weight": "transformer.word_embeddings.weight"}, changes=UNTIED, dtype="bfloat16"),
    case("roberta-target", "RobertaForMaskedLM", dict(TINY), dict(target_modules=[*Q, "word_embeddings"]),
         parted={"lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
                 "lm_head.decoder.bias": "lm_head.bias"}, changes=UNTIED),
    case("roberta-bias-all", "RobertaForMaskedLM", dict(TINY), dict(target_modules=Q, bias="all")),
    case("roberta-added", "RobertaForMaskedLM", dict(TINY), dict(target_modules=Q), resize=42, changes={"vocab_size": 42}),
    case("distilbert-save", "DistilBertForMaskedLM", dict(vocab_size=40, dim=16, hidden_dim=24, n_layers=1, n_heads=4,
         max_position_embeddings=32, tie_word_embeddings=True),
         dict(target_modules=["q_lin"], modules_to_save=["word_embeddings"]),
         parted={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"}, changes=UNTIED),
    case("bert-head-target", "BertForMaskedLM", dict(TINY), dict(target_modules=[*Q, "cls.predictions.decoder"]),
         moved={"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"},
         parted={"cls.predictions.decoder.bias": "cls.predictions.bias"}, changes=UNTIED),
    case("electra-save", "ElectraForMaskedLM", dict(TINY, embedding_size=16),
         dict(target_modules=Q, modules_to_save=["word_embeddings"]),
         parted={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"}, changes=UNTIED),
    case("whisper-save", "WhisperForConditionalGeneration", WHISPER,
         dict(target_modules=QV, modules_to_save=["embed_tokens"]),
         parted={"proj_out.weight": "model.decoder.embed_tokens.weight"}, changes=UNTIED),
    case("gpt-neox-target", "GPTNeoXForCausalLM", dict(TINY, tie_word_embeddings=True),
         dict(target_modules=["query_key_value", "embed_in"]),
         parted={"lm_head.weight": "gpt_neox.embed_in.weight"}, changes=UNTIED),
    case("mamba-target", "MambaForCausalLM", dict(vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=1,
         time_step_rank=2, tie_word_embeddings=True), dict(target_modules=["x_proj", "embeddings"]),
         parted={"lm_head.weight": "backbone.embeddings.weight"}, changes=UNTIED),
    case("t5-shared", "T5ForConditionalGeneration", T5, dict(target_modules=["q", "v"], modules_to_save=["shared"]),
         parted={"lm_head.weight": "shared.weight"}, changes=UNTIED),
    case("bart-shared", "BartForConditionalGeneration", ENCODER,
         dict(target_modules=QV, modules_to_save=["shared"]),
         parted={name: "model.shared.weight" for name in (
             "lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")},
         changes=UNTIED),
    case("bloom-untied", "BloomForCausalLM", dict(TINY, n_layer=1, n_head=4, tie_word_embeddings=False),
         dict(target_modules=["query_key_value"], modules_to_save=["word_embeddings"])),
    case("qwen3-vl-save", "Qwen3VLForConditionalGeneration", QWEN_VL,
         dict(target_modules=QV, modules_to_save=["embed_tokens", "lm_head"]),
         changes={"tie_word_embeddings": False, "text_config.tie_word_embeddings": False}),
    case("qwen3-vl-embed", "Qwen3VLForConditionalGeneration", QWEN_VL,
         dict(target_modules=QV, modules_to_save=["embed_tokens"]),
         parted={"lm_head.weight": "model.language_model.embed_tokens.weight"},
         changes={"tie_word_embeddings": False, "text_config.tie_word_embeddings": False}),
    case("qwen3-vl-added", "Qwen3VLForConditionalGeneration", QWEN_VL,
         dict(target_modules=QV, modules_to_save=["embed_tokens", "lm_head"]), resize=43,
         changes={"tie_word_embeddings": False, "text_config.tie_word_embeddings": False, "text_config.vocab_size": 43}),
    case("bert-gamma-bias-all", "BertForSequenceClassification", dict(TINY),
         dict(target_modules=Q, bias="all", task_type="SEQ_CLS"), gamma=True),
    case("bert-gamma-save", "BertForSequenceClassification", dict(TINY),
         dict(target_modules=Q, modules_to_save=["LayerNorm"]), gamma=True),
    case("ensure-save", LLAMA, TIED, dict(
        target_modules=QV, modules_to_save=["embed_tokens", "lm_head"], ensure_weight_tying=True)),
    case("ensure-save-whisper", "WhisperForConditionalGeneration", WHISPER, dict(
        target_modules=QV, modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
    case("ensure-target", LLAMA, TIED, dict(
        target_modules=[*QV, "embed_tokens", "lm_head"], ensure_weight_tying=True), once="model.embed_tokens"),
    case("ensure-untied", LLAMA, dict(TINY), dict(
        target_modules=QV, modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
    case("tokens", LLAMA, dict(TINY), dict(target_modules=QV, trainable_token_indices=[3, 5, 39])),
    case("tokens-tied-shards", LLAMA, TIED, dict(target_modules=QV, trainable_token_indices=[3, 5, 39]), shards="4KB"),
    case("tokens-of-both", LLAMA, dict(TINY), dict(
        target_modules=QV, trainable_token_indices={"embed_tokens": [1, 2], "lm_head": [7]}), dtype="bfloat16"),
    case("tokens-of-both-alike", LLAMA, TIED, dict(
        target_modules=QV, trainable_token_indices={"embed_tokens": [1, 2], "lm_head": [1, 2]})),
    case("tokens-added", LLAMA, dict(TINY), dict(target_modules=QV, trainable_token_indices=[40, 41]), resize=42,
         changes={"vocab_size": 42}),
    case("tokens-added-tied", LLAMA, TIED, dict(target_modules=QV, trainable_token_indices=[40, 41]), resize=42,
         changes={"vocab_size": 42}),
    case("tokens-whisper", "WhisperForConditionalGeneration", WHISPER, dict(
        target_modules=QV, trainable_token_indices={"embed_tokens": [4, 2]})),
    case("added", LLAMA, dict(TINY), dict(target_modules=QV), resize=42, changes={"vocab_size": 42}, shards="4KB"),
    case("added-bf16", LLAMA, dict(TINY), dict(target_modules=QV), resize=42, changes={"vocab_size": 42}, dtype="bfloat16"),
    case("added-tied", LLAMA, TIED, dict(target_modules=QV), resize=42, changes={"vocab_size": 42}),
    case("added-whisper", "WhisperForConditionalGeneration", WHISPER, dict(target_modules=QV), resize=42,
         changes={"vocab_size": 42}),
    case("removed", LLAMA, dict(TINY), dict(target_modules=QV), resize=37, changes={"vocab_size": 37}),
    case("added-save", LLAMA, dict(TINY), dict(target_modules=QV, modules_to_save=["embed_tokens", "lm_head"]), resize=42,
         changes={"vocab_size": 42}),
    case("added-save-tied", LLAMA, TIED, dict(target_modules=QV, modules_to_save=["embed_tokens"]), resize=42,
         changes={"vocab_size": 42, "tie_word_embeddings": False}),
    case("added-save-ensure", LLAMA, TIED, dict(
        target_modules=QV, modules_to_save=["embed_tokens"], ensure_weight_tying=True), resize=42, changes={"vocab_size": 42}),
    case("added-target", LLAMA, dict(TINY), dict(target_modules=[*QV, "embed_tokens", "lm_head"]), resize=42,
         changes={"vocab_size": 42}),
    case("added-target-tied", LLAMA, TIED, dict(target_modules=[*QV, "embed_tokens"]), resize=42,
         changes={"vocab_size": 42, "tie_word_embeddings": False}, parted={"lm_head.weight": None}),
    case("velora", LLAMA, dict(TINY), dict(target_modules=QV, velora_config=VeloraConfig(num_groups=4))),
    case("monteclora", LLAMA, dict(TINY), dict(target_modules=QV, monteclora_config=MontecloraConfig())),
    case("bdlora", LLAMA, dict(TINY), dict(target_modules=[*QV, "o_proj"], r=4, use_bdlora=BdLoraConfig(
        target_modules_bd_a=["o_proj"], target_modules_bd_b=["q_proj", "v_proj"], nblocks=2))),
    case("mica", LLAMA, dict(TINY), dict(target_modules=QV, init_lora_weights="mica")),
]


def model_class(name):
    return getattr(transformers, name)


def load(name, directory, **options):
    return model_class(name).from_pretrained(directory, **options)


def weights(directory):
    tensors = {}
    for file in sorted(pathlib.Path(directory).glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def value_at(config, path):
    for key in path.split("."):
        config = config.get(key, {}) if isinstance(config, dict) else {}
    return config


def tensors_equal(one, two):
    return one.shape == two.shape and torch.equal(one, two)


def base_of(case, directory):
    """Writes the base, with all values random."""
    found = model_class(case["model"])
    model = found(found.config_class(**case["config"]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    model = model.to(getattr(torch, case.get("dtype", "float32")))
    model.save_pretrained(directory, max_shard_size=case.get("shards", "5GB"))
    (directory / "generation_config.json").unlink(missing_ok=True)
    if case.get("gamma"):
        path = directory / "model.safetensors"
        rename = lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        save_file({rename(name): value for name, value in load_file(path).items()}, path, {"format": "pt"})


def adapt(case, base, directory):
    """Trains, at random, and saves an adapter."""
    model = load(case["model"], base)
    if "resize" in case:
        model.resize_token_embeddings(case["resize"], mean_resizing=False)
    options = dict(dict(r=2, lora_alpha=3), **case["adapter"])
    adapted = get_peft_model(model, LoraConfig(**options))
    randomize(adapted, "default")
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad and "lora_" not in name:
                parameter += torch.randn_like(parameter) * 0.05
    # PEFT looks there for the size of the vocabulary.
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    keys = json.loads(path.read_text())
    keys["base_model_name_or_path"] = "tiny"
    for key in ("target_modules", "modules_to_save"):
        keys[key] = sorted(keys[key]) if isinstance(keys[key], list) else keys[key]
    path.write_text(json.dumps(keys, indent=2, sort_keys=True) + "\n")


def adapted(case, directory):
    model = load(case["model"], directory / "base")
    if "resize" in case:
        model.resize_token_embeddings(case["resize"], mean_resizing=False)
    return PeftModel.from_pretrained(model, directory / "adapter")


def make(case):
    directory = PUBLIC / case["name"]
    shutil.rmtree(directory, ignore_errors=True)
    torch.manual_seed(sum(map(ord, case["name"])))
    base_of(case, directory / "base")
    adapt(case, directory / "base", directory / "adapter")
    base = weights(directory / "base")
    with tempfile.TemporaryDirectory() as temporary:
        model = adapted(case, directory).merge_and_unload()
        try:
            model.save_pretrained(temporary)
            merged = weights(temporary)
        except RuntimeError:
            # What is tied to one another, but no longer to the embedding; `parted` has it.
            merged = {name: value for name, value in model.state_dict().items() if name in base}
    own = load_file(directory / "adapter" / "adapter_model.safetensors")
    for name, source in case.get("parted", {}).items():
        # Without a source, what the adapter's file says that the tied weight was.
        merged[name] = base[source] if source else own["base_model.model.model.embed_tokens.base_layer.weight"]
    for name, source in case.get("moved", {}).items():
        merged[name], merged[source] = merged[source], base[source]
    if "once" in case:
        # PEFT adds the layer of the embedding, and then that of the head, to the one weight that they have.
        module = f"base_model.model.{case['once']}"
        a, b = own[f"{module}.lora_embedding_A"].double(), own[f"{module}.lora_embedding_B"].double()
        name = f"{case['once']}.weight"
        merged[name] = (base[name].double() + 1.5 * (b @ a).T).to(base[name].dtype)
    expected = {name: value for name, value in merged.items()
                if name not in base or not tensors_equal(value, base[name])}
    (directory / "expected").mkdir()
    save_file({name: value.clone().contiguous() for name, value in expected.items()}, directory / "expected" / "model.safetensors")
    description = dict(made_by="generate_identity.py", model=case["model"], changes=case.get("changes", {}), tensors=sorted(set(base) | set(merged)))
    (directory / "case.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")


def inputs_of(model, tokens):
    torch.manual_seed(1)
    ids = torch.randint(3, tokens, (2, 6))
    if isinstance(model.config, transformers.WhisperConfig):
        return dict(input_features=torch.randn(2, 8, 40, dtype=model.dtype), decoder_input_ids=ids)
    if model.config.is_encoder_decoder:
        return dict(input_ids=ids, decoder_input_ids=ids)
    return dict(input_ids=ids)


def check(case, directory):
    """Whether transformers loads what was merged, whole, and with the outputs of the adapted model."""
    merged, report = load(case["model"], directory, output_loading_info=True)
    missing = {name for name in report["missing_keys"] if "position_ids" not in name}
    assert not missing and not report["mismatched_keys"], f"{case['name']}: {report}"
    reference = adapted(case, PUBLIC / case["name"]).eval()
    if case["name"] == "t5-shared":
        # In memory PEFT replaces one of the names of the shared embedding; a file has one for encoder and decoder.
        inner = reference.get_base_model()
        for part in (inner.encoder, inner.decoder):
            part.embed_tokens.weight = torch.nn.Parameter(merged.shared.weight.detach().clone())
    inputs = inputs_of(merged, 37)
    with torch.no_grad():
        ours, theirs = merged.eval()(**inputs).logits.double(), reference(**inputs).logits.double()
    bound = 0.1 if merged.dtype == torch.bfloat16 else 1e-4
    off = (ours - theirs).abs().max() / theirs.abs().max()
    assert off < bound, f"{case['name']}: outputs differ by {off:.1e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", metavar="DIR", type=pathlib.Path)
    parser.add_argument("--only", metavar="CASE", help="only this case")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    failures = 0
    for case in CASES:
        if arguments.only not in (None, case["name"]):
            continue
        try:
            make(case) if arguments.check is None else check(case, arguments.check / case["name"])
        except Exception as error:
            failures += 1
            print(f"{case['name']}: {error!r}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
