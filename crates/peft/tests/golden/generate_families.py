"""Prints src/families/tied_classes.rs: what the classes of transformers tie, and which classes classify.

    python generate_families.py > ../../src/families/tied_classes.rs
    python generate_families.py --check ../../src/families/tied_classes.rs

Every class that names ties is made with its default configuration, without memory for its weights, and asked what it ties when
`tie_word_embeddings` is true everywhere in the configuration. Takes a quarter of an hour. requirements.txt pins the version.
"""

import argparse
import gc
import importlib
import inspect
import logging
import pkgutil
import re
import signal
import sys
import textwrap
import warnings
from pathlib import Path

SECONDS = 60
# Sizes that ties do not depend on.
LAYERS = ["num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_decoder_layers"]
# Classes without ties of their own may have parts with some.
WITH_PARTS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "ForMaskedLM")


def parts(config, config_class, seen):
    """A configuration and those in it."""
    yield config
    for key, value in list(vars(config).items()):
        if isinstance(value, config_class) and not key.startswith("_") and id(value) not in seen:
            seen.add(id(value))
            yield from parts(value, config_class, seen)


def name_of(model, module):
    return next((name for name, other in model.named_modules(remove_duplicate=False) if other is module), None)


def asked(model_class, config_class):
    """The ties of a class by target, and the names of its input and output embeddings."""
    import torch

    config = model_class.config_class()
    for part in parts(config, config_class, set()):
        for key in LAYERS:
            if isinstance(getattr(part, key, None), int) and not hasattr(part, "layer_types"):
                try:
                    setattr(part, key, min(getattr(part, key), 2))
                except Exception:
                    pass
    with torch.device("meta"):
        model = model_class(config)
    for part in parts(config, config_class, set()):
        part.tie_word_embeddings = True
    tied = dict(model.get_expanded_tied_weights_keys(all_submodels=True))
    ends = []
    for getter in (model.get_input_embeddings, model.get_output_embeddings):
        try:
            ends.append(name_of(model, getter()))
        except Exception:
            ends.append(None)
    return tied, *ends


def classes():
    """(model_type, class, ties, input, output) of every class with ties."""
    import transformers.models
    from transformers import PreTrainedConfig, PreTrainedModel

    def stop(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    for package in sorted(module.name for module in pkgutil.iter_modules(transformers.models.__path__)):
        directory = Path(transformers.models.__path__[0]) / package
        for file in sorted(directory.glob("modeling_*.py")):
            if "_tied_weights_keys" not in file.read_text():
                continue
            try:
                module = importlib.import_module(f"transformers.models.{package}.{file.stem}")
            except Exception as error:
                print(f"{package}: {error!r}"[:150], file=sys.stderr)
                continue
            for name, found in list(vars(module).items()):
                own = inspect.isclass(found) and issubclass(found, PreTrainedModel) and found.__module__ == module.__name__
                if not own or name.endswith("PreTrainedModel") or found.config_class is None:
                    continue
                if not found._tied_weights_keys and not name.endswith(WITH_PARTS):
                    continue
                try:
                    signal.alarm(SECONDS)
                    tied, first, last = asked(found, PreTrainedConfig)
                except Exception as error:
                    print(f"{name}: {error!r}"[:150], file=sys.stderr)
                    keys = found._tied_weights_keys
                    tied, first, last = (keys if isinstance(keys, dict) else {}), None, None
                finally:
                    signal.alarm(0)
                gc.collect()
                yield found.config_class.model_type, name, tied, first, last


def groups(tied, first, last):
    """Pairs (target, source) of the ties of embeddings, heads and their biases: the source is the input embedding where it is
    among them."""
    def root(name, seen=()):
        return name if name not in tied or name in seen else root(tied[name], (*seen, name))

    members = {}
    for target in tied:
        members.setdefault(root(target), {root(target)}).add(target)
    pairs = []
    for source, names in members.items():
        plain = all(re.fullmatch(r"[A-Za-z0-9_.]+\.(weight|bias)", name) for name in names)
        ends = {f"{end}.{kind}" for end in (first, last) if end for kind in ("weight", "bias")}
        # Of classes that could not be made, ties of detection heads are told by their names.
        if not plain or (ends and not names & ends) or (not ends and any("_embed." in name for name in names)):
            continue
        source = f"{first}.weight" if first and f"{first}.weight" in names else source
        pairs += [(name, source) for name in sorted(names - {source})]
    return tuple(pairs)


def classifiers():
    from transformers.models.auto import modeling_auto as auto

    for title, doc, names in [
        ("SEQUENCE_CLASSIFIERS", "Classes that classify sequences.", auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
        ("TOKEN_CLASSIFIERS", "Classes that classify tokens.", auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES),
        ("QUESTION_ANSWERERS", "Classes that find answers in texts.", auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES),
    ]:
        yield title, doc, sorted(set(names.values()))


def tied_by_default(model_type):
    """Whether embeddings are tied where `config.json` does not say."""
    from transformers import CONFIG_MAPPING

    try:
        return bool(getattr(CONFIG_MAPPING[model_type](), "tie_word_embeddings", False))
    except Exception:
        return True


def wrapped(text):
    """Lines of at most 110 characters."""
    return textwrap.wrap(text, 110, initial_indent=" " * 4, subsequent_indent=" " * 8, break_long_words=False)


def rust(found, version):
    """The file."""
    rows = {}
    for model_type, name, tied, first, last in found:
        pairs = groups(tied, first, last)
        if pairs and model_type:
            rows.setdefault((model_type, pairs), set()).add(name)

    def strings(names):
        return ", ".join(f'"{name}"' for name in sorted(names))

    lines = [
        f"//! Printed by `tests/golden/generate_families.py` from transformers {version}.",
        "",
        "/// Classes of one model type that tie the same weights.",
        "pub(super) struct TiedClasses {",
        "    pub model_type: &'static str,",
        "    /// Whether they are tied where `config.json` does not say.",
        "    pub by_default: bool,",
        "    pub classes: &'static [&'static str],",
        "    /// What is tied, and to what: names of parameters of the class.",
        "    pub ties: &'static [(&'static str, &'static str)],",
        "}",
        "",
        "#[rustfmt::skip]",
        f"pub(super) static TIED: [TiedClasses; {len(rows)}] = [",
    ]
    for (model_type, pairs), names in sorted(rows.items()):
        pairs = ", ".join(f'("{target}", "{source}")' for target, source in pairs)
        default = str(tied_by_default(model_type)).lower()
        lines += wrapped(
            f'TiedClasses {{ model_type: "{model_type}", by_default: {default}, classes: &[{strings(names)}], '
            f"ties: &[{pairs}] }},"
        )
    lines.append("];")
    for title, doc, names in classifiers():
        lines += ["", f"/// {doc}", "#[rustfmt::skip]", f"pub(super) const {title}: [&str; {len(names)}] = ["]
        lines += [*wrapped(strings(names) + ","), "];"]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", metavar="FILE")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    import transformers

    text = rust(classes(), transformers.__version__)
    if arguments.check is None:
        print(text, end="")
    elif Path(arguments.check).read_text() != text:
        sys.exit(f"{arguments.check} is not what transformers {transformers.__version__} gives")


if __name__ == "__main__":
    main()
