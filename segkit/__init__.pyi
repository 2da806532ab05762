from .config.compose import compose as compose
from .core.errors import SegkitError as SegkitError
from .data.mixing.mixes import Mix as Mix
from .data.sources.base import DataSource as DataSource
from .data.sources.base import Sample as Sample
from .inference.predictor import Prediction as Prediction
from .inference.predictor import Predictor as Predictor
from .inference.predictor import load as load
from .losses.base import Loss as Loss
from .metrics.base import Metric as Metric
from .models.encoders.base import Encoder as Encoder
from .models.heads.base import Head as Head
from .models.necks.base import Neck as Neck
from .models.segmenter import Segmenter as Segmenter
from .models.segmenter import create_model as create_model
from .optim.optimizers import Optimizer as Optimizer
from .optim.schedules import Schedule as Schedule
from .targets.base import Target as Target

__version__: str
