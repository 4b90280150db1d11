"""Sources of labelled videos -> rows `path, label, split, group`; `vidfeat.video.manifest` checks them."""
