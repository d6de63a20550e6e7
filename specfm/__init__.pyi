"""What ``import specfm`` offers, for type checkers and editors; at run time names come when they are first used."""

from downstream.supervised.folder import load_task as load_task
from specfm.bands import BandGrid as BandGrid
from specfm.batch import BandTensors as BandTensors
from specfm.batch import Batch as Batch
from specfm.batch import BatchPart as BatchPart
from specfm.cards import load_card as load_card
from specfm.checkpoint import load as load
from specfm.checkpoint import save as save
from specfm.cli.benchmark import benchmark as benchmark
from specfm.cli.change import change as change
from specfm.cli.cluster import cluster as cluster
from specfm.cli.compress import compress as compress
from specfm.cli.embed import embed as embed
from specfm.cli.explain import explain as explain
from specfm.cli.export import export as export
from specfm.cli.finetune import finetune as finetune
from specfm.cli.inspect import inspect as inspect
from specfm.cli.plan import plan as plan
from specfm.cli.predict import predict as predict
from specfm.cli.pretrain import pretrain as pretrain
from specfm.cli.probe import probe as probe
from specfm.cli.relate import relate as relate
from specfm.cli.report import report as report
from specfm.cli.robustness import robustness as robustness
from specfm.cli.run import run as run
from specfm.cli.search import search as search
from specfm.cli.shard import shard as shard
from specfm.errors import SpecfmError as SpecfmError
from specfm.errors import UsageError as UsageError
from specfm.hub import from_pretrained as from_pretrained
from specfm.hub import push_to_hub as push_to_hub
from specfm.hub import save_pretrained as save_pretrained
from specfm.models import create_backbone as create_backbone
from specfm.models import create_encoder as create_encoder
from specfm.models.encoder import Encoder as Encoder
from specfm.models.encoder import Features as Features
from specfm.readers import read_scene as read_scene
from specfm.scene import Scene as Scene
from specfm.sensor_table import get_sensor as get_sensor
from specfm.sensor_table import known_sensors as known_sensors
from specfm.sensors import Sensor as Sensor

__version__: str
__all__: list[str]
