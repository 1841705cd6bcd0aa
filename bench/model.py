"""Model: finds and reads shapes, each by its name or in a file. What follows from a shape is in arithmetic.py.

A shape lies in a TOML file under workloads/models/, its fields named as in a Hugging Face config.json. A config.json is
read too, for the architectures in huggingface/.
"""

import dataclasses
import json
import os
import tomllib
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from bench import huggingface
from bench.arithmetic import Model
from bench.errors import UserError

__all__ = ["Model", "adopt", "find", "load", "names", "read", "text"]

# Files besides the catalog, handed on to worker processes.
_ADOPTED = "ACCELMARK_MODEL_FILES"

_FOLDER = Path(__file__).parent.parent / "workloads" / "models"


def names() -> list[str]:
    """Every model in the catalog, by file name."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def find(name: str) -> Model:
    """The model of that name: of the catalog, or of a file that was adopted. Raises UserError with the near misses.

    A name comes from a stranger's file too, so no path is ever opened here.
    """
    own = _FOLDER / f"{name}.toml"
    if own.parent == _FOLDER and own.is_file():
        return _from_catalog(name)
    for path in _adopted():
        if (model := read(path)).name == name:
            return model
    raise UserError(
        f"no model is named '{name:.80}'{_near(name, names())}: "
        "`accelmark list models` shows all, and a .toml file or a config.json will do as well"
    )


@cache
def _from_catalog(name: str) -> Model:
    """A plan asks for the same shape hundreds of times."""
    return load(_FOLDER / f"{name}.toml")


def adopt(name_or_path: str) -> str:
    """The name under which `find` knows a model, or that of a .toml file or a config.json, from now on.

    It holds in this process and in those that it starts. Cases and result files carry names and no paths. Raises
    UserError for a file that is wrong, or named like one of the catalog.
    """
    if not name_or_path.endswith((".toml", ".json")):
        return find(name_or_path).name
    path = os.path.abspath(name_or_path)
    model = read(path)
    if model.name in names():
        raise UserError(f"{Path(name_or_path).name}: the catalog has a {model.name} already, rename the file")
    os.environ[_ADOPTED] = os.pathsep.join(dict.fromkeys([*_adopted(), path]))
    return model.name


def read(path: str) -> Model:
    """The model in a .toml file or a config.json. Raises UserError."""
    return _load_config(Path(path)) if path.endswith(".json") else load(Path(path))


def load(path: Path) -> Model:
    """The model in a TOML file, named after the file. Raises UserError for a key too many, too few or wrong."""
    return _build(path, path.stem, _read(path, lambda text: tomllib.loads(text)))


def text(model: Model) -> str:
    """The model as a TOML file that `load` reads: what has its default is left out, and the name is the file's."""
    lines = []
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        if field.name != "name" and value is not None and value != field.default:
            lines.append(f"{field.name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        # A JSON string is a TOML string too, but for the one control character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(one) for one in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _load_config(path: Path) -> Model:
    """The model in a Hugging Face config.json. Rope scaling changes no shape and is not kept."""
    config = _read(path, json.loads)
    kind = config.get("model_type")
    try:
        fields = huggingface.fields(config)
    except KeyError as error:
        raise UserError(f"{path}: the key {error} is missing, model_type {kind} needs it") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    model = _build(path, str(kind), fields | {"source": f"a config.json of model_type {kind}"})
    # The folder's name could be a user's, and a model's name goes into result files: architecture and size say more.
    name = path.stem if path.name != "config.json" else f"{kind}-{_size(model.total_parameters)}"
    return dataclasses.replace(model, name=name)


def _size(parameters: int) -> str:
    """As models are named: 8b, 124m."""
    return f"{parameters / 1e9:.3g}b" if parameters >= 1e9 else f"{parameters / 1e6:.3g}m"


def _adopted() -> list[str]:
    return [path for path in os.environ.get(_ADOPTED, "").split(os.pathsep) if path]


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; a model is a name, a .toml file or a config.json") from None
    except (ValueError, RecursionError) as error:  # the errors of both decoders and of UTF-8 are ValueErrors
        raise UserError(f"{path}: is not valid {path.suffix[1:].upper()}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, it must hold an object of keys and values")
    return content


def _build(path: Path, name: str, values: dict[str, Any]) -> Model:
    """A model from a file's keys, checked for being all there and known."""
    fields = [field for field in dataclasses.fields(Model) if field.name != "name"]
    known = [field.name for field in fields]
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    for key in values:
        if key not in known:
            raise UserError(f"{path}: a model has no key '{key:.80}'{_near(key, known)}: it has {', '.join(known)}")
    for key in required:
        if key not in values:
            raise UserError(f"{path}: the key '{key}' is missing, a model needs {', '.join(required)}")
    tuples: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return Model(name=name, **tuples)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _near(name: str, known: list[str]) -> str:
    """What could have been meant, as part of a sentence: names that begin so, else names that look alike."""
    near = [other for other in known if other.startswith(name.lower())] or get_close_matches(name.lower(), known)
    return f" (did you mean {' or '.join(near[:5])}?)" if name and near else ""
