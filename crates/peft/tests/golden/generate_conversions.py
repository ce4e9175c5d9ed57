"""Takes the names that checkpoints have for what a model's class calls otherwise from transformers.

    pip install -r requirements.txt
    python generate_conversions.py           # writes ../../src/families/conversions.json
    python generate_conversions.py --check   # fails if that file is not what this would write

`conversion_mapping.py` of transformers speaks of classes and of modules inside of them. Every class that an auto class knows is
built on the meta device, and what transformers would do to the names of its checkpoint is written down by the model's type:

`renamings`  lists of steps; each is [pattern, replacement, prefixes that may stand in front] and its list goes from the file's
             names to the class's. `back` goes the other way. A step of several pairs has them as a list; it applies if the first
             pattern occurs.
`experts`    [parameter, matrices]: stacked by the class, apart in the file, as `experts.N.matrix`.
`fused`      [name in the file, parts]: one matrix in the file, of whose rows the class makes several.
`joined`     [name in the class, parts]: several matrices of the file that the class puts together by rows.
`block`      [name in the file, name in the class], plain text: where models with experts keep them.
`unused`     by class: patterns of names that may be in its files and that it does not use.
"""

import json
import pathlib
import re
import signal
import sys
import warnings

import torch
import transformers
from transformers import PreTrainedConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, get_model_conversion_mapping
from transformers.core_model_loading import (
    Chunk, Concatenate, GroupWeightRename, Inkling2IndexOffsetWeightRename, LayerPairCollapse, MergeModulelist, Split,
    WeightConverter,
)
from transformers.models.auto import modeling_auto

TABLE = pathlib.Path(__file__).parents[2] / "src" / "families" / "conversions.json"
VERSION = "5.24.0"
SECONDS = 60
AUTO = [
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", "MODEL_FOR_CAUSAL_LM_MAPPING", "MODEL_MAPPING",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING", "MODEL_FOR_MASKED_LM_MAPPING",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING", "MODEL_FOR_PRETRAINING_MAPPING",
    "MODEL_FOR_OBJECT_DETECTION_MAPPING", "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING", "MODEL_FOR_DEPTH_ESTIMATION_MAPPING",
    "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING", "MODEL_FOR_RETRIEVAL_MAPPING",
]


class TooLong(Exception):
    pass


def classes():
    for name in AUTO:
        mapping = getattr(modeling_auto, name)
        for model_type, names in mapping._model_mapping.items():
            for name in names if isinstance(names, (list, tuple)) else [names]:
                try:
                    model = mapping._load_attr_from_module(model_type, name)
                    config = mapping._load_attr_from_module(model_type, mapping._config_mapping[model_type])
                    # Classes of the text alone have the configuration of the text.
                    config, _ = model.config_class or config, model.base_model_prefix
                except Exception as error:
                    print(f"not there: {name}: {str(error)[:80]}", file=sys.stderr)
                    continue
                yield config, model


def shrink(config, depth=0):
    for key in ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth", "encoder_layers", "decoder_layers"):
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 2:
            try:
                setattr(config, key, 2)
            except Exception:
                pass
    types = getattr(config, "layer_types", None)
    if isinstance(types, list) and len(types) > 2:
        config.layer_types = types[:2]
    if depth < 4:
        for value in list(vars(config).values()):
            if isinstance(value, PreTrainedConfig):
                shrink(value, depth + 1)
    return config


def conversions(config_class, model_class):
    def stop(*_):
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    for prepare in (shrink, lambda config: config):
        signal.alarm(SECONDS)
        try:
            with torch.device("meta"):
                model = model_class(prepare(config_class()))
            unused = sorted(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or [])
            return get_model_conversion_mapping(model, add_legacy=False), unused
        except (Exception, TooLong) as error:
            reason = error
        finally:
            signal.alarm(0)
    print(f"not built: {model_class.__name__}: {type(reason).__name__}: {str(reason)[:80]}", file=sys.stderr)
    return by_names(config_class, model_class), sorted(model_class._keys_to_ignore_on_load_unexpected or [])


def by_names(config_class, model_class):
    """The same for a class that cannot be built from a default configuration: of it and of the `…Model` in it."""
    name = model_class.__name__
    found = get_checkpoint_conversion_mapping(name) or get_checkpoint_conversion_mapping(config_class.model_type) or []
    inner = name.split("For")[0] + "Model"
    for transform in (get_checkpoint_conversion_mapping(inner) or []) if inner != name else []:
        transform.scope_prefix, transform.base_model_prefix = "", model_class.base_model_prefix
        found.append(transform)
    return found


def compiled(pattern):
    """What transformers makes of a pattern, without the name of its group."""
    pattern = pattern.replace("*.", r".*\.")
    return pattern + r"(?!\w)" if re.search(r"[a-zA-Z0-9]$", pattern) else pattern


def prefixes(transform):
    if transform.scope_prefix is None:
        return None
    scope = f"{transform.scope_prefix}." if transform.scope_prefix else ""
    base = f"{transform.base_model_prefix}." if transform.base_model_prefix else ""
    return [base + scope, scope] if base else [scope]


def step(transform):
    pairs = [[compiled(one), two] for one, two in zip(transform.source_patterns, transform.target_patterns)]
    if isinstance(transform, GroupWeightRename):
        return [pairs, None, prefixes(transform)]
    assert len(pairs) == len(transform.source_patterns) == 1, transform
    return [*pairs[0], prefixes(transform)]


def is_plain(rename):
    patterns = rename.source_patterns + rename.target_patterns
    return prefixes(rename) is None and not any(set(pattern) & set("\\^(*[") for pattern in patterns)


def plain(pattern):
    return pattern.replace("\\.", ".").removesuffix(".weight").lstrip(".")


def put(rows, row):
    if row not in rows:
        rows.append(row)


def put_converter(entry, transform):
    operations = [type(operation) for operation in transform.operations]
    dims = [getattr(operation, "dim", None) for operation in transform.operations]
    sources = [plain(pattern) for pattern in transform._original_source_patterns]
    targets = [plain(pattern) for pattern in transform._original_target_patterns]
    if any("bias" in pattern for pattern in sources):
        return
    if operations and operations[0] is MergeModulelist and (dims == [0] or (
            operations[1:] == [Concatenate] and dims == [0, 1])) and all("experts.*." in one for one in sources):
        matrices = [one.split("experts.*.")[1] for one in sources]
        parameter = targets[0].rsplit(".", 1)[-1]
        if parameter not in [known for known, _ in entry["experts"]]:
            put(entry["experts"], [parameter, matrices])
    elif operations in ([Chunk], [Split]) and dims == [0]:
        put(entry["fused"], [sources[0], targets])
    elif operations == [Concatenate] and dims == [0] and not any("*" in one for one in sources):
        put(entry["joined"], [targets[0], sources])


def table():
    assert transformers.__version__ == VERSION, transformers.__version__
    types, seen = {}, set()
    for config_class, model_class in classes():
        if model_class in seen:
            continue
        seen.add(model_class)
        transforms, unused = conversions(config_class, model_class)
        if not transforms and not unused:
            continue
        empty = {"renamings": [], "experts": [], "fused": [], "joined": [], "block": [], "unused": {}}
        entry = types.setdefault(config_class.model_type, empty)
        if unused:
            entry["unused"][model_class.__name__] = unused
        for transform in transforms:
            if isinstance(transform, WeightConverter):
                put_converter(entry, transform)
        renames = [one for one in transforms if not isinstance(one, WeightConverter)]
        if any(isinstance(one, (Inkling2IndexOffsetWeightRename, LayerPairCollapse)) for one in renames) or not renames:
            continue
        if entry["experts"] and all(is_plain(one) for one in renames) and "block_sparse_moe" in str(renames):
            for one in renames:
                put(entry["block"], [one.source_patterns[0], one.target_patterns[0]])
            continue
        back = [one.reverse_transform() for one in reversed(renames)]
        put(entry["renamings"], {"steps": [step(one) for one in renames], "back": [step(one) for one in back]})
    return {name: {key: value for key, value in entry.items() if value} for name, entry in sorted(types.items())}


def text(types):
    lines = [f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in types.items() if entry]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main():
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    new = text(table())
    if sys.argv[1:] == ["--check"]:
        sys.exit(None if TABLE.read_text() == new else f"{TABLE} is out of date")
    TABLE.write_text(new)


if __name__ == "__main__":
    main()
