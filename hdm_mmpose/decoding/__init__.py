"""From a heatmap back to a dot.  Needs torch only.

``square`` is the paper's rule (Sec. 3.4), ``mode`` the place that most of the mass is near, and ``read`` applies either to raw maps:
the one reader of decoder, hooks and export.
"""

from .mode import decode_blurred_mode
from .read import DecodedJoints, read_heatmap
from .square import decode_square

__all__ = ['DecodedJoints', 'decode_blurred_mode', 'decode_square', 'read_heatmap']
