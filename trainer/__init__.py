"""The trainer: labelled micrographs -> fine-tuned CNN -> ONNX bundle with a class activation map head."""
