"""The early blocks of our vision tower as an ONNX graph, with exactly the outputs that a localizer wants.

A graph takes the tokens of one picture, so it knows neither patches nor positions and fits grids of every shape. It is
written node by node from the weights: no exporter has to follow our code, and the same weights give the same graph.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32
from torch import Tensor, nn

from clip_es.encoder.engines.base import Wanted
from clip_es.encoder.vit import Block, QuickGELU, VisionTower
from clip_es.errors import ConfigError

Arithmetic = Literal["float32", "int8"]

OPSET, IR = 17, 8
"""Old enough for the first ONNX Runtime of the extra."""
PRODUCT = "product"
"""Names of the products that int8 is for begin with it."""
EXACT_MLPS = 1
"""The first blocks whose MLP stays float32 in int8: on scenes the hidden values of the first one have peaks of 22
deviations, so that eight bits are too few for the rest; without it the error of the attention falls by 40 per cent."""
_MICROSOFT = "com.microsoft"
OPERATORS = {
    ("", name)
    for name in (
        "Add", "Cast", "Constant", "DynamicQuantizeLinear", "LayerNormalization", "MatMul", "MatMulInteger", "Mul",
        "ReduceMean", "Reshape", "Slice", "Softmax", "Split", "Sum", "Transpose",
    )
} | {(_MICROSOFT, "QuickGelu"), (_MICROSOFT, "Gelu")}  # fmt: skip
"""All operators that our graphs have; a file with another one is none of ours."""

TOKENS = "tokens"


def output_names(wanted: Wanted) -> list[str]:
    """The outputs of a graph, in the order of the fields of `Passed`."""
    names = [f"output.{wanted.blocks - 1}"]
    names += ["attention"] * (wanted.averaged > 0) + ["last_attention"] * wanted.last
    names += [f"input.{index}" for index in range(wanted.blocks) if wanted.inputs]
    return names + ["total"] * wanted.total + [f"output.{index}" for index in wanted.outputs]


def graph_bytes(visual: VisionTower, wanted: Wanted, arithmetic: Arithmetic, *, reduced: bool = False) -> bytes:
    """The first blocks of a tower as an ONNX file.

    int8: weights by channel, inputs of the products by ONNX Runtime's dynamic quantization, once the channels that a
    norm makes large were made even, see `evened`. `reduced`: weights of seven bits, for processors without VNNI, where
    sums of eight bits overflow. Raises ConfigError: the file would be larger than ONNX allows.
    """
    model = _Builder(visual, wanted, even=arithmetic == "int8").model()
    if arithmetic == "float32":
        return model.SerializeToString()
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    products = [node.name for node in model.graph.node if node.name.startswith(f"{PRODUCT}.")]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            model,
            path,
            per_channel=True,
            reduce_range=reduced,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=products,
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT},
        )
        return path.read_bytes()


class _Builder:
    """Writes down the nodes of some blocks."""

    def __init__(self, visual: VisionTower, wanted: Wanted, even: bool) -> None:
        from onnx import TensorProto, helper, numpy_helper

        self.helper, self.float, self.array = helper, TensorProto.FLOAT, numpy_helper.from_array
        self.visual, self.wanted, self.even = visual, wanted, even
        self.nodes: list[Any] = []
        self.weights: dict[str, Any] = {}
        size = sum(p.numel() for block in visual.transformer.blocks[: wanted.blocks] for p in block.parameters())
        if 4 * size >= 2**31 - 2**24:
            raise ConfigError(
                "this tower is too large for one ONNX file",
                expected="less than 2 GB of float32 weights in the blocks before the last",
                found=f"{4 * size / 2**30:.1f} GB",
                next_step="Pass --encoder.engine torch --dtype bfloat16.",
            )

    def model(self) -> Any:
        """The whole graph."""
        wanted, blocks = self.wanted, self.visual.transformer.blocks
        x, mean, total = TOKENS, None, None
        for index, block in enumerate(blocks[: wanted.blocks]):
            x, weights = self._block(index, block, x)
            if wanted.total:
                last = index == wanted.blocks - 1
                total = self.add("Sum", *([total] if total else []), weights, name="total" if last else None)
            if index >= wanted.blocks - wanted.averaged:
                one = self.add("ReduceMean", weights, axes=[0], keepdims=0)
                mean = self.add("Add", mean, one) if mean else one
        if mean:
            ends = {"from": [1, 1], "to": [2**62, 2**62], "axes": [0, 1]}
            self.add("Slice", mean, *(self.const(key, np.array(v)) for key, v in ends.items()), name="attention")
        if wanted.last:
            self._last(blocks[wanted.blocks], x)
        return self._packed()

    def _packed(self) -> Any:
        """The nodes with inputs, outputs and weights."""
        width = self.visual.positional_embedding.shape[1]
        heads = self.visual.transformer.blocks[0].attn.heads
        whole, square = ["token", width], [heads, "token", "token"]
        shapes = {"attention": ["patch", "patch"], "last_attention": square, "total": square}
        ends = [(TOKENS, whole)], [(name, shapes.get(name, whole)) for name in dict.fromkeys(output_names(self.wanted))]
        told = [[self.helper.make_tensor_value_info(name, self.float, shape) for name, shape in side] for side in ends]
        graph = self.helper.make_graph(self.nodes, "blocks", *told, list(self.weights.values()))
        opsets = [self.helper.make_opsetid("", OPSET), self.helper.make_opsetid(_MICROSOFT, 1)]
        return self.helper.make_model(graph, opset_imports=opsets, ir_version=IR)

    def _block(self, index: int, block: Block, x: str) -> tuple[str, str]:
        """Tokens leaving a block, and its attention [head token token]."""
        attn, mlp = block.attn, block.mlp
        weight, bias = _scaled(block)
        qkv = self._normed_linear(f"{index}.qkv", block.ln_1, weight, bias, x, f"input.{index}")
        q, k, v = self.add("Split", qkv, outputs=3, axis=1)
        weights = self._attention(q, k, attn.heads)
        mixed = self.add(
            "Transpose", self.add("MatMul", weights, self._heads(v, attn.heads, (1, 0, 2))), perm=[1, 0, 2]
        )
        mixed = self.add("Reshape", mixed, self.const("flat", np.array([0, -1])))
        x = self.add("Add", x, self._linear(f"{index}.out", attn.out_proj.weight, attn.out_proj.bias, mixed))
        exact = index < EXACT_MLPS
        hidden = self._normed_linear(f"{index}.fc", block.ln_2, mlp.c_fc.weight, mlp.c_fc.bias, x, exact=exact)
        if isinstance(mlp.gelu, QuickGELU):
            hidden = self.add("QuickGelu", hidden, domain=_MICROSOFT, alpha=1.702)
        else:
            hidden = self.add("Gelu", hidden, domain=_MICROSOFT)
        left = self._linear(f"{index}.proj", mlp.c_proj.weight, mlp.c_proj.bias, hidden, exact)
        return self.add("Add", x, left, name=f"output.{index}"), weights

    def _last(self, block: Block, x: str) -> None:
        """The attention of the block after those that are passed; its products stay float32."""
        weight, bias = _scaled(block)
        both = 2 * weight.shape[1]
        qk = self._linear("last.qk", weight[:both], bias[:both], self._norm("last.ln_1", block.ln_1, x), exact=True)
        q, k = self.add("Split", qk, outputs=2, axis=1)
        self._attention(q, k, block.attn.heads, "last_attention")

    def _attention(self, q: str, k: str, heads: int, name: str | None = None) -> str:
        logits = self.add("MatMul", self._heads(q, heads, (1, 0, 2)), self._heads(k, heads, (1, 2, 0)))
        return self.add("Softmax", logits, name=name, axis=-1)

    def _heads(self, x: str, heads: int, order: tuple[int, int, int]) -> str:
        """[token width] to [token head channel], in another order."""
        shape = self.const("heads", np.array([0, heads, -1]))
        return self.add("Transpose", self.add("Reshape", x, shape), perm=list(order))

    def _normed_linear(
        self,
        name: str,
        norm: nn.LayerNorm,
        weight: Tensor,
        bias: Tensor,
        x: str,
        normed: str | None = None,
        exact: bool = False,
    ) -> str:
        """A linear layer of normed tokens; `normed`: the name of these, where they may be wanted themselves."""
        if not self.even or exact:
            return self._linear(name, weight, bias, self._norm(normed or f"{name}.norm", norm, x), exact)
        factor = evened(norm, weight)
        even = self._norm(f"{name}.norm", norm, x, 1 / factor)
        if normed and self.wanted.inputs:
            self.add("Mul", even, self.const(f"{name}.factor", factor), name=normed)
        return self._linear(name, weight * factor, bias, even)

    def _norm(self, name: str, norm: nn.LayerNorm, x: str, factor: Tensor | float = 1.0) -> str:
        parts = (("weight", norm.weight), ("bias", norm.bias))
        given = [self.const(f"{name}.{part}", value * factor) for part, value in parts]
        return self.add("LayerNormalization", x, *given, name=name, axis=-1, epsilon=norm.eps)

    def _linear(self, name: str, weight: Tensor, bias: Tensor, x: str, exact: bool = False) -> str:
        name = f"{'exact' if exact else PRODUCT}.{name}"
        made = self.add("MatMul", x, self.const(f"{name}.weight", weight.T), name=name)
        return self.add("Add", made, self.const(f"{name}.bias", bias))

    def add(self, kind: str, *inputs: str, outputs: int = 1, name: str | None = None, **settings: Any) -> Any:
        """A node; the name of its output, which is `name` where one is given, or those of its outputs."""
        name = name or f"{kind}.{len(self.nodes)}"
        made = [name] if outputs == 1 else [f"{name}.{place}" for place in range(outputs)]
        self.nodes.append(self.helper.make_node(kind, list(inputs), made, name=name, **settings))
        return name if outputs == 1 else made

    def const(self, name: str, value: Tensor | np.ndarray) -> str:
        """A constant, kept once under its name."""
        if name not in self.weights:
            array = value.detach().float().cpu().numpy() if isinstance(value, Tensor) else value
            self.weights[name] = self.array(np.ascontiguousarray(array), name)
        return name


def evened(norm: nn.LayerNorm, weight: Float32[Tensor, "out dim"]) -> Float32[Tensor, " dim"]:
    """A factor for each channel between a norm and a linear layer: the norm is divided by it, the weights multiplied.

    What they compute stays the same, but one range then fits all channels of either. Source: SmoothQuant (ICML 2023)
    with an exponent of 1/2. Differs: how large a channel becomes is told by the norm itself, three deviations and the
    bias, so that no pictures are needed.
    """
    reach = 3 * norm.weight.abs() + norm.bias.abs()
    factor = (reach.clamp(min=1e-5) / weight.abs().amax(0).clamp(min=1e-5)).sqrt()
    return factor / factor.log().mean().exp()


def _scaled(block: Block) -> tuple[Tensor, Tensor]:
    """The input projection with the scale of the logits in its queries: a power of two for heads of 64 channels."""
    weight, bias = block.attn.in_proj_weight.clone(), block.attn.in_proj_bias.clone()
    width = weight.shape[1]
    scale = (width // block.attn.heads) ** -0.5
    weight[:width] *= scale
    bias[:width] *= scale
    return weight, bias
