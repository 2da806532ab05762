"""segkit: image segmentation from encoders, necks and heads that are composed by name."""

import lazy_loader

__version__ = "0.1.0"

# The public names stand in __init__.pyi and are imported on first use: `import segkit` must not
# import torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
