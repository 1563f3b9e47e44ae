"""A network as an ONNX file: written by torch, checked, run by ONNX Runtime on the CPU.

Such a file is data. But it may point at other files, name operators that come from elsewhere, or loop without end; one
that does is not loaded (promise 7).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dicom_io.errors import Rejected

# The standard operators have two names for one domain. Opset 20 is the newest that torch's exporter writes.
_STANDARD = ("", "ai.onnx")
_OPSET = 20
_INPUT, _OUTPUT = "image", "logits"


def export(network: nn.Module, example: Tensor) -> bytes:
    """The file of a network in evaluation mode. example: (B, C, *size); B stays open, C and size do not.

    Same weights give the same bytes. By torch's exporter that records a run: its newer one writes paths of this machine
    into the file, needs two more packages and takes ten times as long. What a record leaves out, such as a choice that
    depends on the image, shows when answers are compared (`models.engine_choice`).

    Raises:
        Rejected: torch cannot write it, or it is none that would be loaded.
    """
    open_batch = {_INPUT: {0: "batch"}, _OUTPUT: {0: "batch"}}
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(scratch) / "model.onnx"
        try:
            torch.onnx.export(
                network,
                (example,),
                path,
                dynamo=False,
                input_names=[_INPUT],
                output_names=[_OUTPUT],
                dynamic_axes=open_batch,
                opset_version=_OPSET,
            )
        except Exception as error:  # torch has no common class for what may go wrong here
            raise Rejected(f"torch cannot write the network as ONNX: {_first_line(error)}") from error
        file = path.read_bytes()
    require_plain(file, "the network as ONNX")
    return file


def require_plain(file: bytes, name: str) -> None:
    """Pass for one graph of standard operators with its tensors in itself, one input and one output.

    Raises:
        Rejected: what it is instead; name: of the file, for the sentence.
    """
    import onnx
    from google.protobuf.message import DecodeError

    def refuse(what: str) -> Rejected:
        return Rejected(f"{name} {what} and was not loaded; release the version again from its run")

    try:
        model = onnx.load_model_from_string(file)
    except DecodeError as error:
        raise refuse("is damaged") from error
    for part in _parts(model):
        if isinstance(part, onnx.TensorProto) and (
            part.data_location == onnx.TensorProto.EXTERNAL or part.external_data
        ):
            raise refuse(f"keeps tensor {part.name!r} in another file")
        if isinstance(part, onnx.NodeProto | onnx.OperatorSetIdProto) and part.domain not in _STANDARD:
            raise refuse(f"uses operators of {part.domain!r}, not only standard ones,")
        if isinstance(part, onnx.FunctionProto | onnx.TrainingInfoProto):
            raise refuse("defines operators or a training of its own")
        if isinstance(part, onnx.AttributeProto) and (part.HasField("g") or part.graphs):
            raise refuse(f"has {part.name!r}, a graph within its graph,")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise refuse(f"is no valid ONNX ({_first_line(error)})") from error
    ends = [[each.name for each in side] for side in (model.graph.input, model.graph.output)]
    if ends != [[_INPUT], [_OUTPUT]]:
        raise refuse(f"makes {ends[1]} of {ends[0]}, not {_OUTPUT} of {_INPUT},")


def _parts(message: Any) -> Iterator[Any]:
    """A message of protobuf and all within it, wherever it stands."""
    from google.protobuf.message import Message

    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in [value] if isinstance(value, Message) else value:
                yield from _parts(each)


class OnnxNetwork:
    """Called as the network is: tensor (B, C, *size) in, logits out; as many threads as torch has now.

    otherwise: the network itself, for images of another size than the file is for.

    Raises:
        Rejected: see `require_plain`, or ONNX Runtime cannot run the file.
    """

    def __init__(self, file: bytes, name: str, otherwise: nn.Module) -> None:
        import onnxruntime

        require_plain(file, name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        # Threads that wait in a loop take the cores from the doors beside them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            # The bytes that were checked, not a file that may be another by now.
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class
            raise Rejected(
                f"{name} cannot be run by ONNX Runtime {onnxruntime.__version__}: {_first_line(error)}; release the "
                "version again from its run, or with --engine torch"
            ) from error
        self._size = tuple(self._session.get_inputs()[0].shape[1:])
        self._otherwise = otherwise

    def __call__(self, images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) != self._size:
            return self._otherwise(images)
        (logits,) = self._session.run([_OUTPUT], {_INPUT: images.contiguous().numpy()})
        return torch.from_numpy(logits)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
