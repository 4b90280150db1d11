"""Sources of labelled videos, kind by kind -> rows `path, label, split, group`; `vidfeat.video.manifest` checks them."""
