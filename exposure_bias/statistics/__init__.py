"""Accumulators: statistics of a stream as sums that add.

Every accumulator holds float64 arrays of sums with a leading `step` dimension, so that batching,
resuming, sharding and merging are one operation, addition. Deviations are taken from a centre that
is known beforehand (the data's mean at that level), so that variances can be had from the sums
without loss of digits.

Sums are kept in 16 groups of samples by image (`jackknife.Groups`), the same in every stream,
replicate and model: the delete-one-group jackknife needs nothing else. `update` uses torch;
everything else here works without it.
"""
