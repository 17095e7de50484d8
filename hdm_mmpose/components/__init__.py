"""What MMPose's registries need; importing this package registers everything (``custom_imports`` of every config)."""

from hdm_mmpose import compat

compat.apply()  # before anything of the stack is used

from .dot_annotation_codec import DotAnnotationCodec  # noqa: E402
from .emd_heatmap_loss import EMDHeatmapLoss  # noqa: E402
from .epsilon_schedule_hook import EpsilonScheduleHook  # noqa: E402
from .heatmap_picture_hook import HeatmapPictureHook  # noqa: E402
from .mpii_pixel_origin import MpiiPixelOrigin  # noqa: E402
from .sub_pixel_decoder import SubPixelDecoder  # noqa: E402
from .supplier_agreement_hook import SupplierAgreementHook  # noqa: E402
from .transport_monitor_hook import TransportMonitorHook  # noqa: E402
from .validation_loss_hook import ValidationLossHook  # noqa: E402

__all__ = [
    'DotAnnotationCodec',
    'EMDHeatmapLoss',
    'EpsilonScheduleHook',
    'HeatmapPictureHook',
    'MpiiPixelOrigin',
    'SubPixelDecoder',
    'SupplierAgreementHook',
    'TransportMonitorHook',
    'ValidationLossHook',
]
