"""The classes that a model's files name, in the installed libraries.

A class of a repository's own code is never imported: importing it would run that code.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from diffc.errors import InputError
from diffc.models.components import INDEX, Component
from diffc.models.families import family, family_names
from diffc.models.foreign import foreign_errors, quiet_libraries
from diffc.models.source import Source

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def component_class(part: Component) -> Any:
    """Return the class of a component.

    Raises:
        InputError: The installed library lacks the class, or the class is the repository's own
            code.
    """
    named = f"{part.library}.{part.class_name}"
    if part.class_name in family_names() and family(part.class_name).library == part.library:
        return family(part.class_name).model_class()
    with quiet_libraries(), foreign_errors(f"{named}, which '{part.name}' is, cannot be used"):
        module = _library(part.library)
        kind = getattr(module, part.class_name, None) if module is not None else None
    if module is None:
        raise InputError(
            f"'{part.name}' is a class of the repository's own code ({named}), which diffc does "
            "not run",
            hint="give a pipeline of diffusers' own classes",
        )
    if kind is None:
        raise InputError(
            f"'{part.name}' is a {part.class_name}, which the installed {_version(module)} does "
            "not have",
            hint="install the version that the model was saved with, or a later one",
        )
    return kind


def network_class(class_name: str) -> Any:
    """Return a family's class, or else the diffusers class of that name."""
    import diffusers

    if class_name in family_names():
        return family(class_name).model_class()
    return getattr(diffusers, class_name)


def diffusers_class(name: str) -> Any:
    """Return what the installed diffusers has of that name; None if it has nothing.

    The first use of a pipeline's class imports its module, which logs what is not installed.
    """
    import diffusers

    with quiet_libraries():
        return getattr(diffusers, name, None)


def pipeline_class(source: Source) -> type[DiffusionPipeline]:
    """Return the class of a source's pipeline.

    Raises:
        InputError: The source is no pipeline, or its class is not installed.
    """
    import diffusers

    if not source.is_pipeline:
        raise InputError(
            f"{source.folder} is a single {source.class_name}, not a pipeline",
            hint="give the pipeline's folder, the one with model_index.json",
        )
    named = source.index.get("_class_name")
    if not isinstance(named, str):
        raise InputError(
            f"{source.folder / INDEX} names no pipeline of diffusers (_class_name: {named})",
            hint="name the pipeline's class there; diffc runs no code of a repository's own",
        )
    with foreign_errors(f"the pipeline's class {named} cannot be used"):
        kind = diffusers_class(named)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise InputError(
            f"{source.folder / INDEX} names {named}, which the installed {_version(diffusers)} "
            "does not have",
            hint="install the version that the model was saved with, or name the right class",
        )
    return kind


def has_pipeline(class_name: object) -> bool:
    """True if the installed diffusers lists a pipeline of that name; its file is not imported.

    False where only the class itself can tell (``pipeline_class``).
    """
    import diffusers

    listed = getattr(diffusers.pipelines, "__all__", ())  # a plain package where it is not lazy
    return isinstance(class_name, str) and class_name.endswith("Pipeline") and class_name in listed


def is_diffusers_model(kind: object) -> bool:
    """Return True for a diffusers network class."""
    from diffusers import ModelMixin

    return isinstance(kind, type) and issubclass(kind, ModelMixin)


def is_transformers_model(kind: object) -> bool:
    """Return True for a transformers network class."""
    from transformers import PreTrainedModel

    return isinstance(kind, type) and issubclass(kind, PreTrainedModel)


def _library(name: str) -> ModuleType | None:
    """Return the module that holds a library's classes; None for code that is not installed."""
    import diffusers
    import transformers

    if name in ("diffusers", "transformers"):
        library: ModuleType = {"diffusers": diffusers, "transformers": transformers}[name]
        return library
    module = getattr(diffusers.pipelines, name, None)
    return module if isinstance(module, ModuleType) else None


def _version(module: ModuleType) -> str:
    name = module.__name__.partition(".")[0]
    return f"{name} {getattr(module, '__version__', '')}".strip()
