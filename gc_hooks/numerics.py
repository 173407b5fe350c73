"""The numbers that decide verdicts: each with its unit, its reason, and what half and double of it do.

Figures "on 16 networks" are those of ``python tests/benchmarks/constants.py --networks 16``, which halves and doubles
each; ``calibration.py`` beside it found the numbers about rounding, ``detection.py`` those about accusations.
"""

from __future__ import annotations

import numpy as np

EPS = float(np.finfo(np.float64).eps)
"""Machine epsilon of float64, 2.2e-16: the relative distance between 1 and the next number."""

EPS_OF_FLOAT32 = float(np.finfo(np.float32).eps)
"""Machine epsilon of float32, 1.2e-7."""

LARGEST_OF_FLOAT32 = float(np.finfo(np.float32).max)
"""The largest number of float32, 3.4e38; what is larger is infinite there."""


# The precision in which a verdict holds (gc_hooks.report.verdict)

SINGLE_FROM, HALF_FROM = 1e-10, 1e-6
"""Machine epsilons: those of float64 (2e-16) lie far below the first, that of float32 (1e-7) between the two."""

CERTAIN_IN_SINGLE, CERTAIN_IN_HALF = 1e-2, 3e-2
"""Differences of two norms, over their sum. What GOOD may leave open in a lower precision; it is 1e-5 in float64. Below
1e-2 lies what float32 leaves of the gradient of a right network that is trained (1e-4 to 1e-2); above it the smallest
factor that people forget, 31/32 for the mean of a batch of 32 (1.6e-2). An array that is wrong by a tenth (4.8e-2) is
good in no precision. On 24 networks whose loss computes in float32, central differences call 41 % of the right
parameters good; half of it 21 %, double 53 %, and 1e-5 3 %."""

MOST_DIGITS, FEW_DIGITS = 24, 12
"""Binary digits. Float64 numbers that all fit into the 24 digits of float32, and need more than 12, were computed in
float32: by chance a number fits once in 5e8 times. Round numbers, such as 6.25, need fewer and say nothing."""


# Central differences and their ladder of steps (gc_hooks.slopes.methods, where the derivation stands)

SAFETY = 4.0
"""Standard deviations. How far an error exceeds the standard deviation that it is made of: four leave one normal number
in 16,000 outside. With two, one slope in 22 would be outside; with eight, errors are twice as large. On 16
networks neither changes a verdict; half of it costs 17 % more evaluations where the loss is in float32."""

QUICK_STEPS = (2.0**-14, 2.0**-17)
"""Steps of a quick slope, in units of the scale. Truncation falls with the square of the step, so at an eighth of
it 98 % of the truncation shows as disagreement. Larger steps meet more kinks, smaller ones more noise."""

FINEST_TOP, COARSEST_TOP = 2.0**-10, 2.0**-4
"""The first step, in units of the scale, lies between these: 2^-10 for a loss in float64; at most 2^-4 for a noisy one.
A larger first step meets kinks that are no concern of the point, a smaller one loses digits to noise."""

RATIO, RUNGS = 8.0, 9
"""Each step is an eighth of the one before: 2^-10 to 2^-34 in nine rungs. With a ratio of 2 a ladder costs three times
as many evaluations; with 64 the best step may lie a factor of eight away from every rung."""

COARSEST_JUMP = 2.0**-20
"""Relative to the loss. Losses that move in jumps up to this size round to float32 (2^-24) somewhere; larger jumps are
kinks beside flat ground."""

ROUGH, ROUGH_SAFETY = 1e-11, 1.4
"""A loss whose noise exceeds 1e-11 of its value (float64's rounding is 1e-16, float32's 1e-7) computes in float32
somewhere; its errors repeat from point to point, and 1.4 times the noise allows for that."""

KINK_SHARE = 0.5
"""A jump counts as a kink if it is at least half of the asymmetry of the one-sided slopes: for a curved line without a
kink the asymmetry shrinks with the step, and no jump is left after extrapolation."""


# The noise of a loss (gc_hooks.slopes.noise)

NOISE_POINTS, NOISE_SPACING = 9, 256.0
"""Nine values at a spacing of 256 machine epsilons of the parameters' scales: close enough for the loss to be a
straight line between them, far enough for each parameter to be rounded anew. The levels of the table need nine values;
more cost evaluations, fewer average over one or two differences only."""

LEAST_NOISE = 0.3
"""Units in the last place of the loss. Rounding to the nearest is uniform over one unit, with standard deviation 0.29;
nine values may all happen to be rounded alike."""


# Complex step: its trial, and its rounding (gc_hooks.slopes.instrument)

TRUSTED = 1e-6
"""Relative to the slope. Complex step is trusted if central differences agree with it and are themselves at least this
precise. Where complex step is wrong (``abs``, ``norm``, a cast), it is wrong in the first digit as a rule."""

TRUNCATION = 1e-8
"""Relative to the typical slope: the truncation of a central difference at 2^-22 of the scale, 6e-14, is far smaller
even where the third derivative is 10,000 times the first."""

TRIAL_STEPS = 2.0**-22, 2.0**-24
"""In units of the scale: small enough not to reach kinks, large enough for six digits of a loss in float64."""

TRIES_ELSEWHERE = 4
"""Other points at which complex step is tried where it could not be told here (a flat or rough place). Each costs
three to seven evaluations; with one alone, a second flat place would cost the exact method."""

ASSUMED_ROUNDING, LEAST_ROUNDING = 64 * EPS, 6 * EPS
"""Relative error of an exact slope before its rounding is measured, and the least, which the last operations make."""

JITTERED_SLOPES, SLOPE_ROUNDINGS = 2, 32.0
"""Jittered complex slopes, where backprop is not a function, and how many times their move the rounding may be. On 16
networks neither half nor double changes a verdict."""

JITTERED_GRADIENTS, GRADIENT_ROUNDINGS = 4, 4.0
"""Jittered gradients, where backprop is a function, and how many times their root mean square the rounding may be.
On 16 networks neither half nor double of the factor changes a verdict."""


# The quick look at a gradient of which a check before has told (gc_hooks.quick_check)

QUICK_CHECK_STEPS = 2.0**-24, 2.0**-20
"""In units of the scale. The steps of a central difference that confirms complex step, to `QUICK_CHECK_NEAR`: the
smaller one meets few kinks, the larger one serves where the noise of the loss is large against its slope."""

QUICK_CHECK_NEAR = 1e-5
"""Relative to slopes that are typical along the direction: how near two slopes have to come. A loss whose complex step
is wrong is off by far more; a kink within the step, or a loss in float32, sends the check to the whole pipeline."""

QUICK_CHECK_ROUNDING = 1e-12
"""Relative to typical slopes: how far backprop and complex step may be apart by rounding. In networks trained until
their loss was 0.007 it was 5e-14, above what a whole check measures for each parameter; 1e-12 still bounds the
difference of each parameter by less than 1e-8."""

CENTRAL_STEP, FINER_STEP = (2.0**-18, 4e-9), (2.0**-22, 3e-8)
"""Steps of a central difference that stands alone, in units of the scale, and its error in units of typical slopes: in
networks of 845 to 235,000 entries, fresh and trained, smooth ones were off by at most 2e-9 and by a median of 1e-8. The
finer step serves where a kink lies within the other one."""

QUICK_CHECK_DIRECTIONS = 3
"""Directions through all parameters that were right, where one leaves a bound too wide: one bounds a norm by a factor
of 80, three by one of 5."""

KNOWN_DIRECTIONS, KNOWN_MORE = 4, 12
"""Directions by which a known bug is measured again: at least four in all, one in each wrong parameter; and how many
more in each before it is believed that the difference is another one. Along one direction in 12 the difference seems a
tenth of what it is; along four, in 2,000."""

KNOWN_MOST = 8
"""Wrong parameters that are measured again at one check, drawn at random; the others keep what was seen of them. It
bounds the cost where a bug in the loss has made hundreds of arrays wrong."""

TENFOLD = 10.0
"""Factor by which the difference of a known bug has to change until it is told in full again."""


# Where to measure (gc_hooks.slopes.probes)

SMALL = 16
"""Entries. Smaller parameters are measured entry by entry by default: that is exact and costs what a few directions
cost. Half of it saves up to eight slopes a bias; double makes a check of many biases twice as dear."""

MANY = 500
"""Parameters. From here on the default measures one direction through all of them first: a direction for each would
cost with the square of their number, since the loss itself costs in proportion to it."""

SIGNS = 4.5
"""Standard deviations that a sum with random signs leaves once in 10,000 times: by Hoeffding's inequality its
probability is at most 2 exp(-SIGNS^2 / 2) = 8e-5."""


# What the user hands in (gc_hooks.arrays.gradients, gc_hooks.problem)

REPEATS_WITHIN = 1e3
"""Two calls of the gradient function may differ by this many machine epsilons: another order of summation does that in
a sum of thousands of terms. A tenth would accuse threaded BLAS, ten times more would hide nothing that matters."""

DISTANCES = (1.0, 0.125, 8.0)
"""How far from the point a doubted loss is asked again, in units of the parameters' own scales: as far as they are
large, and, where the loss is not defined there or does not change, eight times nearer and eight times farther."""


# From slopes to a verdict (gc_hooks.verdicts.compare, gc_hooks.verdicts.bounds)

CERTAINTY = 0.99
"""Probability with which bounds from directions hold. With 99.9 % one direction would bound the norm within a factor of
800 instead of 80, and most large parameters would need two."""

MOST_DIRECTIONS = 16
"""Directions in a parameter whose verdict is not clear: their bounds lie within a factor of 1.7 above and 1.4 below.
With 8 it is 2.2 and 1.6; with 32 the cost doubles for a factor of 1.4."""

BELIEVED = 1e6
"""A measured gradient that is this many times larger than backprop's (steps chosen in a wrong unit) is not believed so
far that all other parameters would count as zero beside it."""

EARLY_STAGES = 1.15
"""A parameter that was called good after fewer directions may differ by up to this many times what 16 directions would
have detected: each stage is one more chance to stop early."""

ROUGHLY_EQUAL = 1e-3
"""Below this share of the gradient, g and n have the same norm as far as a difference of two digits is concerned."""

ZERO = 100 * EPS
"""Relative to the whole gradient. A gradient that is smaller is what rounding leaves of zero."""

ZERO_WITHIN = 1e-6
"""Relative to the whole gradient. A measured gradient whose bound is smaller vanishes for certain; with a wider bound
the comparison is INCONCLUSIVE. At 1e-4 a forgotten term of that size would pass."""


# Looking closer (gc_hooks.verdicts.escalate, gc_hooks.verdicts.localize)

STAGES = (1, 2, 4, MOST_DIRECTIONS)
"""Directions in a parameter after each stage, until its verdict is clear: most are after two."""

ENOUGH_TO_ACCUSE = 4
"""Directions. Fewer leave the size of an error open by more than a factor of 3.7."""

FEW = 64
"""Entries. A doubtful parameter of up to this size is measured entry by entry: exact, and hardly dearer than 16
directions with their second measurements."""

ALL_UP_TO = 256
"""Entries. Up to this size a parameter that failed is measured entry by entry: the rules see all of it, and searching
would cost as much."""

SAMPLE, DENSE = 10, 3
"""Entries sampled at random, and how many of them must be wrong to call the error dense. If a third of all entries are
wrong, three of ten are with 70 %; if one in a hundred is, with 0.01 %."""


# Other measurements before an accusation (gc_hooks.verdicts.recheck)

SHARES, SHARE_DIRECTIONS = (0.75, 0.5, 0.25, 0.1), 3
"""Shares of the parameters at which the size of a gradient in which nothing cancels is looked for, and directions in
each. The output of L layers falls with the L-th power: ten layers are unfitted at 0.75, where a gradient is still left,
and one layer only at 0.1."""

BACKPROP_ROUNDINGS = 32.0
"""Machine epsilons of the uncancelled gradient that a backward pass may be off: what adds up over ten layers, and among
the samples of a batch. On 24 networks with float32 buffers it accuses no correct array and leaves 71 unclear; half
accuses 2 and leaves 58."""

MORE_ERRORS = 4.0
"""In a loss that computes in float32 an error holds in 999 of 1,000 measurements, which is not enough for an accusation
among thousands of entries: there the difference has to be four more errors long. On 16
networks neither half nor double changes a verdict on a right gradient; double leaves one wrong one more unclear."""

HAIR = 1e-6
"""In units of the scale. How far the point is moved off a kink: far enough for the kinks at the point, too near for new
ones. The gradient changes by about as much, far less than what is judged."""

LARGEST_STEP, OTHER_STEPS = 2.0**-3, 9
"""In units of the scale: the first of the other steps at which a slope is measured. Each further one is an eighth, down
to 2^-27, where the rounding of float64 leaves nothing."""

OTHER_UNIT = 2.0**-9
"""In units of the scale. The steps that suit a parameter smaller than this may all drown in the noise of the loss."""

KINK_PROBES = 5
"""Directions, or entries, along which a kink is looked for: their jumps together are compared with what is in doubt."""

PLACES = 3
"""Points a hair away at which a parameter is judged that may stand on a kink: one may happen to lie beside another."""


# The reference gradient (gc_hooks.tracing)

TIE = 8.0
"""Machine epsilons, relative to the largest of the numbers that are compared. Two that are nearer are equal as far as
rounding can tell, and a kink lies between them."""

CONFIRMED = 1e-9
"""Relative to slopes that are typical along a direction. Complex step and a right reference differ by rounding, 1e-15
to 1e-12; a term that one of them has lost makes a larger difference."""

STEPS_BESIDE = (2.0**-29, 2.0**-31)
"""In units of the scale. Steps of a slope a hair beside a kink: a five-hundredth of the hair, so that few kinks are
crossed even where a direction goes eight scales far, and a quarter of it, which leaves float64 six digits."""

STEP_IN_SINGLE = 2.0**-6
"""In units of the scale. A step at which the values of a loss in float32 and of the same code in float64 are compared:
so long that rounding, 1e-7, leaves a slope three digits. What curves or bends does so in both."""

VAGUE = 0.05
"""Relative to the same. Central differences whose error is larger do not confirm a reference: half of a gradient may be
lost in them."""

MOST_BALANCE = 1e4
"""How much farther, or less far, than its scale a direction that confirms a reference goes along a parameter, so that
each contributes alike. A complex step crosses no kink, so that the way may be long."""

ROUNDED_REFERENCES, REFERENCE_ROUNDINGS = 4, 16.0
"""References with every number rounded once more, and how many times the root mean square of their moves the rounding
of a backward pass may be: it has other operations, and more of them, than the reference has."""

FLIPPED = 4.0
"""How many times their root mean square the moves may be that do not grow with rounding: those to another side of many
kinks, or of a number that is all rounding. Of eight that go one way at once, and half of them in a sample, it is 4."""

USUALLY = 12.0
"""How many times less than what is possible the rounding of a backward pass usually is: on 1,100 parameters of random
graphs, in float64 as in float32, 99 % were off by less than a twelfth of it, and the worst by a half. GOOD bears the
usual, an accusation has to leave the possible."""

FAR_BEYOND = 1e3
"""A difference that is this many times larger than its error, or than what a slope could tell, needs no second look."""

BY_CHANCE = 100.0
"""How much better than rounding allows two gradients agree by chance in one of as many cases. With 10 a GOOD would
exclude too little, with 1,000 float32 would have none."""

SMOOTHLY = 1e3
"""How many times its own relative size a step of a hair may move a gradient in a smooth loss. What moves it more is a
term that was there in one evaluation and not in the other."""
