"""A folded network for other programs: `onnx`, `safetensors` and `stablehlo`.

Each module imports its own dependency; nothing here is imported with the folder itself.
"""
