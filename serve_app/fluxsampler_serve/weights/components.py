"""The four weight-carrying components of a FluxPipeline: files, classes, tensor names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from fluxsampler_serve.errors import ModelCorrupt, ModelMismatch, ModelNotFound
from fluxsampler_serve.weights.facts import read_json
from fluxsampler_serve.weights.tensors import TensorInfo, read_header

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

PIPELINE_CLASS = "FluxPipeline"


@dataclass(frozen=True, slots=True)
class Component:
    """``stem`` is the weight file's name as its library saves it. ``renames`` brings the tensor names
    of published checkpoints to those of the pinned library; ``ignored`` are tensors that older
    libraries saved and the pinned ones compute; ``alias`` maps a tied tensor to the one it equals."""

    name: str
    library: str
    class_name: str
    stem: str
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    alias: tuple[tuple[str, str], ...] = ()

    @property
    def file_name(self) -> str:
        """The weight file, when there is one file."""
        return f"{self.stem}.safetensors"

    def canonical(self, tensor: str) -> str:
        """The name that the pinned library gives to ``tensor``."""
        for pattern, replacement in self.renames:
            tensor = re.sub(pattern, replacement, tensor)
        return tensor


TRANSFORMER = Component("transformer", "diffusers", "FluxTransformer2DModel", "diffusion_pytorch_model")
VAE = Component("vae", "diffusers", "AutoencoderKL", "diffusion_pytorch_model")
CLIP = Component(
    "text_encoder",
    "transformers",
    "CLIPTextModel",
    "model",
    # transformers 5 dropped the prefix that every published CLIP checkpoint has.
    renames=((r"^text_model\.", ""),),
    ignored=("embeddings.position_ids",),
)
T5 = Component(
    "text_encoder_2",
    "transformers",
    "T5EncoderModel",
    "model",
    alias=(("encoder.embed_tokens.weight", "shared.weight"),),
)
COMPONENTS: tuple[Component, ...] = (TRANSFORMER, T5, CLIP, VAE)
# Folders without weights that the pipeline needs as well.
PLAIN_FOLDERS = ("scheduler", "tokenizer", "tokenizer_2")


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor in the source: under ``info.name`` in ``path``, meant as ``name``."""

    name: str
    path: Path
    info: TensorInfo


@dataclass(frozen=True, slots=True)
class SourceComponent:
    """A component as it lies in the source folder: one file, or the shards of an index."""

    component: Component
    folder: Path
    files: tuple[Path, ...]

    @property
    def config(self) -> dict[str, Any]:
        """The component's config.json."""
        return read_json(self.folder / "config.json")

    def tensors(self) -> dict[str, SourceTensor]:
        """Every tensor that the model uses, by canonical name, in file order, checked against the
        model's own shapes. Raises :class:`ModelCorrupt`."""
        component = self.component
        found: dict[str, SourceTensor] = {}
        aliased: dict[str, SourceTensor] = {}
        alias = dict(component.alias)
        for path in self.files:
            for info in read_header(path).values():
                name = component.canonical(info.name)
                if name in component.ignored:
                    continue
                where, key = (aliased, alias[name]) if name in alias else (found, name)
                if key in where:
                    raise ModelCorrupt(
                        f"{path} repeats tensor {info.name} of another file: keep one checkpoint"
                    )
                where[key] = SourceTensor(key, path, info)
        for key, tensor in aliased.items():
            found.setdefault(key, tensor)
        self._check(found)
        return found

    def _check(self, found: Mapping[str, SourceTensor]) -> None:
        expected = expected_shapes(self.component, self.config)
        files = ", ".join(str(path) for path in self.files)
        check_names(files, set(found), set(expected))
        for name, shape in expected.items():
            if found[name].info.shape != shape:
                raise ModelCorrupt(
                    f"{found[name].path}: tensor {name} has shape {list(found[name].info.shape)} where "
                    f"{self.folder / 'config.json'} wants {list(shape)}: weights and configuration must "
                    "come from the same model"
                )


def check_names(files: str, found: set[str], expected: set[str]) -> None:
    """Raise :class:`ModelCorrupt` unless the tensors of ``files`` are exactly the model's."""
    for what, names in (("lacks", expected - found), ("has unexpected", found - expected)):
        if names:
            first = sorted(names)[0]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelCorrupt(
                f"{files} {what} tensor {first}{more}: weights and configuration must come from the same model"
            )


def find_components(folder: Path) -> dict[str, SourceComponent]:
    """The weight files of the pipeline in ``folder``.

    Raises :class:`ModelNotFound` naming what is missing, :class:`ModelMismatch` for another pipeline.
    """
    index_file = folder / "model_index.json"
    if not index_file.is_file():
        raise ModelNotFound(
            f"{folder} has no model_index.json: give the folder of a diffusers {PIPELINE_CLASS}"
        )
    index = read_json(index_file)
    if index.get("_class_name") != PIPELINE_CLASS:
        raise ModelMismatch(
            f"{index_file} describes a {index.get('_class_name')}, this service draws with a {PIPELINE_CLASS}: "
            "choose a FLUX.1 model"
        )
    for name in PLAIN_FOLDERS:
        if not (folder / name).is_dir():
            raise ModelNotFound(
                f"{folder} lacks the component {name}: copy the whole {PIPELINE_CLASS} folder"
            )
    return {component.name: _find(folder, component, index) for component in COMPONENTS}


def _find(folder: Path, component: Component, index: Mapping[str, Any]) -> SourceComponent:
    declared = index.get(component.name)
    if isinstance(declared, list) and len(declared) == 2 and declared[1] not in (None, component.class_name):
        raise ModelMismatch(
            f"{folder / 'model_index.json'} declares {component.name} as {declared[1]}, this service draws with "
            f"{component.class_name}: choose a FLUX.1 model"
        )
    own = folder / component.name
    if not (own / "config.json").is_file():
        raise ModelNotFound(
            f"{folder} lacks the component {component.name} (no {component.name}/config.json): "
            f"copy the whole {PIPELINE_CLASS} folder"
        )
    single = own / component.file_name
    if single.is_file():
        return SourceComponent(component, own, (single,))
    shard_index = own / f"{component.file_name}.index.json"
    if shard_index.is_file():
        weight_map = read_json(shard_index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelCorrupt(f"{shard_index} has no weight_map: restore it from the model's source")
        shards = tuple(own / name for name in sorted({str(name) for name in weight_map.values()}))
        for shard in shards:
            if shard.parent != own or not shard.is_file():
                raise ModelNotFound(
                    f"{own} lacks the shard {shard.name} that its index names: copy or download it again"
                )
        return SourceComponent(component, own, shards)
    raise ModelNotFound(
        f"{folder} lacks the weights of {component.name}: put {component.name}/{component.file_name} there "
        "(safetensors only; other formats can run code when they are opened)"
    )


def model_class(component: Component) -> type[nn.Module]:
    """diffusers' or transformers' class of ``component``."""
    # Imported here: both libraries take seconds to import, and a warm cache needs neither.
    import diffusers
    import transformers

    library = diffusers if component.library == "diffusers" else transformers
    found: type[nn.Module] = getattr(library, component.class_name)
    return found


def skeleton(
    component: Component, config: Mapping[str, Any], cls: type[nn.Module] | None = None
) -> nn.Module:
    """The component with its parameters on the meta device and its buffers computed.

    ``cls`` may be a subclass such as xfuser's wrapper. Buffers that no checkpoint holds (CLIP's
    position ids) are real, which ``torch.device("meta")`` would not leave them. Raises
    :class:`ModelMismatch` when the configuration is not one of that class.
    """
    from accelerate import init_empty_weights  # see model_class

    cls = cls or model_class(component)
    try:
        with init_empty_weights(include_buffers=False):
            if component.library == "diffusers":
                # What diffusers saves beside the arguments (its version, the class) says nothing here.
                arguments = {key: value for key, value in config.items() if not key.startswith("_")}
                model: nn.Module = cls.from_config(arguments)  # type: ignore[attr-defined]  # ConfigMixin's
            else:
                model = cls(_transformers_config(component, config))
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError, RuntimeError) as error:
        raise ModelMismatch(
            f"the configuration of {component.name} does not fit {component.class_name} ({error}): "
            "choose a FLUX.1 model or restore its config.json"
        ) from error
    return model.eval()


def _transformers_config(component: Component, config: Mapping[str, Any]) -> Any:
    import transformers  # see model_class

    cls = transformers.T5Config if component is T5 else transformers.CLIPTextConfig
    return cls.from_dict(dict(config))


@cache
def _aliases(component: Component) -> frozenset[str]:
    return frozenset(name for name, _ in component.alias)


def expected_shapes(component: Component, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the component's file must hold."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in skeleton(component, config).state_dict().items()
        if name not in _aliases(component)
    }
