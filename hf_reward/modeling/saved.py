"""What lies on the disk after a save is what the model consists of."""

import json
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from hf_reward.errors import RunError


def check_saved_weights(model: PreTrainedModel | PeftModel, folder: str | Path) -> None:
    """
    Compare the names and shapes of the saved weights with those of the model, whatever splits it over processes.

    Only the headers of the files are read.

    Raises:
        `RunError`: A weight is missing, empty or of another shape.
    """
    adapter = isinstance(model, PeftModel)
    found = saved_shapes(Path(folder), "adapter_model" if adapter else "model")
    expected = _adapter_shapes(model) if isinstance(model, PeftModel) else _shapes(model)
    wrong = [
        f"{name} ({'missing' if name not in found else f'shape {list(found[name])}'})"
        for name, shape in sorted(expected.items())
        if found.get(name) is None or 0 in found[name] or (shape is not None and found[name] != shape)
    ]
    if wrong:
        raise RunError(
            f"What was saved does not hold the model: {len(wrong)} of {len(expected)} weights are not as they should "
            f"be: {', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}. With DeepSpeed ZeRO-3, set "
            "`stage3_gather_16bit_weights_on_model_save` (in accelerate's file `zero3_save_16bit_model`) to true."
        )


def saved_shapes(folder: Path, stem: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights in `STEM.safetensors`, or in the files that its index names; `{}` without."""
    index = folder / f"{stem}.safetensors.index.json"
    single = folder / f"{stem}.safetensors"
    files = {single} if single.is_file() else set()
    if index.is_file():
        files |= {folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with safe_open(path, framework="pt") as weights:
            shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    return shapes


def full_shape(parameter: torch.Tensor) -> tuple[int, ...]:
    """The shape of a parameter as a whole, which ZeRO-3 may hold in parts (a `DTensor` says its own)."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...] | None]:
    parameters: dict[str, nn.Parameter] = dict(model.named_parameters(remove_duplicate=False))
    left_out = {*(model._keys_to_ignore_on_save or ()), *(getattr(model, "all_tied_weights_keys", None) or ())}
    whole = {
        name: torch.empty(full_shape(parameters.get(name, tensor)), device="meta")
        for name, tensor in model.state_dict().items()
        if name not in left_out
    }
    # Under the names of the file, which are other ones where transformers renames or splits weights.
    return {name: tuple(tensor.shape) for name, tensor in revert_weight_conversion(model, whole).items()}


def _adapter_shapes(model: PeftModel) -> dict[str, tuple[int, ...] | None]:
    # An embedding that has grown is saved too; here it need not be looked for.
    return dict.fromkeys(get_peft_model_state_dict(model, save_embedding_layers=False))
