"""Every setting of a run, once: of methods, of refiners, of the run, and presets of them all."""
