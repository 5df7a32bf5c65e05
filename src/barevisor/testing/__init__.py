"""Public test tools: code builders, a fake virtio driver, oracles."""
