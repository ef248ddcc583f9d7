"""The only home of Orbax: checkpoints of packs in training, and the files of finished networks."""
