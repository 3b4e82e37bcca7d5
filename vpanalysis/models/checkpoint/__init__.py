"""Checkpoints by structure: what their files hold, where each tensor goes, and what stays open.

`resolve` finds the place of every tensor of a checkpoint of Audio Flamingo 3 or Qwen2-Audio, with or without the layer
mixer, in the split layout or in one folder; `verify` shows what it found; `convert` writes the other layout. One idea a
module: `headers` (what is there), `settings` (what the files state), `assignment` (who gets what), with a module for
each kind of part, `lazy` (tensors that stay on disk), `verification` and `conversion`.
"""
