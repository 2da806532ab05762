"""What every other room stands on: errors, files, labels, the registry, plugins, the machine."""
