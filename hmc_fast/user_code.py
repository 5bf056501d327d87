"""Imports and calls the user's own code by `module:callable` name, and reports every failure in one sentence."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from .errors import UserError

__all__ = ["call", "import_object"]


def import_object(spec: str, what: str) -> Callable[..., Any]:
    """The callable that `spec` names, as `package.module:name`; the working directory is searched too.

    what: the flag or argument that `spec` came from, for messages.

    Raises:
        UserError: a malformed name, a module that is missing or fails to import, or no such callable in it.
    """
    module_name, _, path = spec.partition(":")
    if not module_name or not path:
        raise UserError(f"{what} {spec!r} is not of the form module:callable, such as mypackage.mymodule:make")
    module = _import(module_name, spec, what)
    found: Any = module
    for name in path.split("."):
        if not hasattr(found, name):
            raise UserError(f"{what} {spec!r}: {module_name} ({_origin(module)}) has no {path!r}")
        found = getattr(found, name)
    if not callable(found):
        raise UserError(f"{what} {spec!r} is a {type(found).__name__}: name a function or a class")
    return found


def call(function: Callable[..., Any], spec: str, what: str, *arguments: Any) -> Any:
    """`function(*arguments)`.

    Raises:
        UserError: the function failed; quotes its error and the line that raised it.
    """
    try:
        return function(*arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{what} {spec!r} failed: {_reason(error)}") from error


def _import(name: str, spec: str, what: str) -> Any:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise UserError(f"{what} {spec!r}: no module {name!r} is installed or found in {here}") from error
        raise UserError(f"{what} {spec!r}: importing {name} failed: {_reason(error)}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{what} {spec!r}: importing {name} failed: {_reason(error)}") from error
    finally:
        if here in sys.path:
            sys.path.remove(here)  # removes the first occurrence, the one inserted above


def _origin(module: Any) -> str:
    return getattr(module, "__file__", None) or "built in"


def _reason(error: BaseException) -> str:
    """The error on one line, with the innermost file and line if there is one."""
    place = ""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({os.path.basename(error.filename)}, line {error.lineno})"
        return f"{type(error).__name__}: {error.msg}{place}"
    if frames and not frames[-1].filename.startswith("<"):
        place = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})"
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
