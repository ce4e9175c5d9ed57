"""Writes src/families/class_facts.json: what transformers' model classes call the tensors of files, and which layers they are.

    pip install -r requirements.txt
    python generate_class_facts.py            # writes the table
    python generate_class_facts.py --check    # fails if transformers says something else than the table

Every model class that an auto class of the pinned transformers knows is built without memory (`meta`), with its default
configuration, cut to eight layers where it can be. The table has for each `model_type`:

- `prefix`: what classes with a head put before the names of the class without (`base_model_prefix`);
- `base`: the classes without a head;
- `tied`: by class, names that are other names of a weight when embeddings are tied;
- `rules`, and `class_rules` where a class has others: how names in files become names of the class, as an index of `rules`;
- `embeddings`, `whole`: paths, without the prefix and with `#` for numbers, of weights with two or more dimensions that are
  embeddings, and of those that PEFT makes no layer for: parameters of modules that are no linear layer, embedding or
  ungrouped convolution, and modules that PEFT refuses.

`converted_targets` has names of modules that PEFT takes for those of single experts in `target_modules`, by `model_type`.

A rule is `[scope, sources, target]`: below the scope (absent: everywhere), the first match of one of the sources (regular
expressions, tried in order) is replaced by the target, in which `\\1` is the source's group. Rules apply one after the other.
`converted` are sources of tensors that change more than their names: they are cut, stacked or transposed.
"""

import json
import os
import pathlib
import re
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore")

import peft.utils.transformers_weight_conversion as conversion  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from torch import nn  # noqa: E402
from transformers.conversion_mapping import get_model_conversion_mapping  # noqa: E402
from transformers.core_model_loading import GroupWeightRename, WeightConverter, WeightRenaming  # noqa: E402
from transformers.models.auto import modeling_auto  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402

TABLE = pathlib.Path(__file__).parents[2] / "src/families/class_facts.json"
# `_check_lora_target_modules_mamba` of PEFT 0.21.2.
REFUSED_TYPES = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}
REFUSED_MODULES = {"out_proj", "conv1d"}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def class_names():
    names = set()
    for mapping in dir(modeling_auto):
        if mapping.endswith("_MAPPING_NAMES"):
            for found in getattr(modeling_auto, mapping).values():
                names.update([found] if isinstance(found, str) else found)
    return sorted(name for name in names if name)


def numbered(path):
    return re.sub(r"(?<![^.])\d+(?![^.])", "#", path)


LAYERS = 8


def shortened(config):
    """Fewer layers, of which every kind is among the first."""
    parts = [config, *(value for value in vars(config).values() if hasattr(value, "model_type"))]
    for part in parts:
        count = getattr(part, "num_hidden_layers", None)
        if isinstance(count, int) and count > LAYERS:
            part.num_hidden_layers = LAYERS
            for key, value in list(vars(part).items()):
                if isinstance(value, list) and len(value) == count:
                    setattr(part, key, value[:LAYERS])
    return config


def built(cls):
    with torch.device("meta"):
        try:
            return cls(shortened(cls.config_class()))
        except Exception:
            return cls(cls.config_class())


def layers(model, prefix):
    """Paths of embeddings, and of weights that PEFT makes no layer for."""
    embeddings, whole = set(), set()
    # As the forward of nn.MultiheadAttention reads its weight past the layer.
    past = {f"{name}.out_proj" for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)}
    refused = REFUSED_MODULES if model.config.model_type in REFUSED_TYPES else set()
    for path, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or weight.dim() < 2:
            continue
        own = numbered(path.removeprefix(f"{prefix}."))
        if path in past or path.rsplit(".", 1)[-1] in refused:
            whole.add(own)
        elif isinstance(module, nn.Embedding):
            embeddings.add(own)
        elif isinstance(module, CONVOLUTIONS):
            if module.groups > 1:
                whole.add(own)
        elif not isinstance(module, (nn.Linear, Conv1D)):
            whole.add(own)
    return embeddings, whole


def converted_targets():
    """Names that `_convert_peft_config_moe` of PEFT 0.21.2 makes parameters of, whichever module has them."""
    by_pattern = conversion._MOE_TARGET_MODULE_MAPPING
    found = {kind: sorted(by_pattern[of]) for kind, of in conversion._MODEL_TO_CONVERSION_PATTERN.items() if of in by_pattern}
    return dict(sorted(found.items()))


def branch(source):
    pattern = source.replace("*.", r".*\.")
    return pattern + r"(?!\w)" if re.search(r"[a-zA-Z0-9]$", pattern) else pattern


def rules_of(model):
    """`None` if the names cannot be told by rules of the table's kind."""
    renamings, converted = [], []
    for transform in get_model_conversion_mapping(model):
        scope = transform.scope_prefix
        order = sorted(range(len(transform.source_patterns)), key=lambda i: -len(transform.source_patterns[i]))
        sources = [branch(transform.source_patterns[i]) for i in order]
        if isinstance(transform, WeightConverter):
            converted.append([scope, sources])
        elif type(transform) is GroupWeightRename:
            renamings.extend([scope, [sources[at]], transform.target_patterns[i]] for at, i in enumerate(order))
        elif isinstance(transform, WeightRenaming) and type(transform).rename_source_key is WeightRenaming.rename_source_key:
            renamings.append([scope, sources, transform.target_patterns[0]])
        else:
            return None
    return {"converted": converted, "renamed": renamings}


def table():
    all_rules, types = [], {}
    for name in class_names():
        try:
            cls = getattr(transformers, name)
            model = built(cls)
        except Exception as error:  # Classes without a usable default, or that need other packages.
            print(f"{name}: {type(error).__name__}", file=sys.stderr)
            continue
        prefix = cls.base_model_prefix
        is_base = not prefix or not hasattr(model, prefix)
        facts = types.setdefault(
            model.config.model_type, {"prefix": prefix, "base": [], "rules": {}, "embeddings": set(), "whole": set(), "tied": {}}
        )
        facts["prefix"] = facts["prefix"] or prefix
        if isinstance(cls._tied_weights_keys, dict) and cls._tied_weights_keys:
            facts["tied"][name] = cls._tied_weights_keys
        if is_base:
            facts["base"].append(name)
        embeddings, whole = layers(model, prefix)
        facts["embeddings"] |= embeddings
        facts["whole"] |= whole
        rules = rules_of(model)
        if rules not in all_rules:
            all_rules.append(rules)
        facts["rules"][name] = all_rules.index(rules)
    for facts in types.values():
        of_classes = facts.pop("rules")
        usual = max(sorted(set(of_classes.values())), key=list(of_classes.values()).count)
        facts["rules"] = usual
        facts["class_rules"] = {name: rules for name, rules in of_classes.items() if rules != usual}
        both = facts["embeddings"] & facts["whole"]
        facts["embeddings"], facts["whole"] = sorted(facts["embeddings"] - both), sorted(facts["whole"])
    return {
        "transformers": transformers.__version__, "converted_targets": converted_targets(), "rules": all_rules,
        "types": dict(sorted(types.items())),
    }


def text(table):
    rules = ",\n".join("  " + json.dumps(rules) for rules in table["rules"])
    types = ",\n".join(f"  {json.dumps(name)}: {json.dumps(facts)}" for name, facts in table["types"].items())
    return (
        f'{{\n"transformers": "{table["transformers"]}",\n"converted_targets": {json.dumps(table["converted_targets"])},\n'
        f'"rules": [\n{rules}\n],\n"types": {{\n{types}\n}}\n}}\n'
    )


if __name__ == "__main__":
    found = text(table())
    if "--check" in sys.argv:
        sys.exit(0 if TABLE.read_text() == found else "the table differs from what transformers says")
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(found)
