"""`observe`: watch a loop that somebody else wrote, and keep what `record` keeps of its own.

    with eb.observe(pipe, data=data) as chain:
        pipe(batch_size=64, num_inference_steps=50)
    rec = chain.recording()

*A diffusers scheduler* is watched at `step`, which sees the state x̂_t, the label t and the output
that is believed, be it guided or not. A copy of the scheduler is rehearsed (`adapters.schedulers`)
for the levels of its states, in its own coordinates, and for which of its calls keep a state:
Heun's predictor and the like are calls within a step. The end is what the last `step` returns. x̂_0
and ε̂ are those of the output, before any clipping of the scheduler's.

*Any other loop* is watched at the network, by a forward hook. The model's own call, with a stand-in
in the network's place, tells what the network is given at each level and what is made of its
output, and so what a state, a level and a prediction are here (`labels`). The noise falls within a
chain, and a batch begins where it is back at its first level. Where a chain adds noise on its way
(churn, restarts, ancestral solvers) the states tell whether they go on (`noise`), or the user does
(`Observation.begin`).
Of several calls at one level the last has the state that the solver keeps, as in Heun's; mid-points
at levels of their own are recorded as steps. What a hook cannot see is the end: it is the last
x̂_0, as for every solver whose last step is a first-order one to σ = 0, or the state of a call at
σ = 0, or whatever is given to `finish`.

Nothing that goes wrong here stops the loop: it is told in a warning and by `recording`.

The chain starts from noise, so that it is compared with data as a distribution and not image by
image. Sample i counts as a replicate of image i mod N in the jackknife's groups, as in
`record(start="noise")`. The forward stream is filled in afterwards, by `recording`."""
