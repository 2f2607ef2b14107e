"""Export of a folded network for other programs: `onnx`, `safetensors` and `stablehlo`.

Each module imports its own dependency. The folder itself imports none of them.
"""
