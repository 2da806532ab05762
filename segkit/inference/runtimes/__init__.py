"""What runs a trained network: torch, ONNX Runtime, OpenVINO, torch.export."""
