"""Models that others trained, brought into our form: what a file is, and its network as plain ONNX."""
