"""The planner: what a run takes in memory and time, computed from its architecture alone.

Start with `breakdown`, the bytes of each part and the peak, and `activations`, what the backward
pass needs; `settings` has the planned run that all read, `architecture` its model. `prediction`
makes a plan of a run and chooses its micro-batch, `remaining_work` estimates its time, `tables`
shows both. No weights are loaded, and torch is imported only where the architecture has to be read
from a checkpoint. What training really took is measured in `train.memory`.
"""
