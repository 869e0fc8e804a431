import { assert, describe, it } from "@effect/vitest"
import { LaneStager } from "../src/internal/laneStager.ts"
import { lane } from "./support/laneBatches.ts"

/** A lane with batches of 2, 3 and 5 frames, and another with one of 7. */
const staged = () => {
  const stager = new LaneStager<string>(2)
  const ids = [2, 3, 5].map((frames) => stager.stage(lane(0), frames, 0, `of ${frames}`).id)
  const other = stager.stage(lane(1), 7, 0, "of 7").id
  return { stager, ids, other }
}

const payloads = (batches: ReadonlyArray<{ readonly payload: string }> | undefined) =>
  batches?.map(({ payload }) => payload)

describe("LaneStager", () => {
  it("PW-03 a staged batch carries id, lane, frames, staging time, verdict and payload; ids grow from 1", () => {
    const stager = new LaneStager<string>(2)
    assert.deepStrictEqual(stager.stage(lane(1), 3, 1234, "first"), {
      id: 1,
      lane: lane(1),
      frames: 3,
      stagedAt: 1234,
      shadow: "not_run",
      payload: "first"
    })
    assert.strictEqual(stager.stage(lane(0), 1, 1235, "second").id, 2)
    assert.strictEqual(stager.stage(lane(1), 1, 1235, "third").id, 3)
  })

  it("PW-03 a verdict that was given stays with the batch until it is flushed", () => {
    const stager = new LaneStager<string>(1)
    stager.stage(lane(0), 1, 0, "a").shadow = "clean"
    stager.stage(lane(0), 1, 0, "b").shadow = "diverged"
    stager.stage(lane(0), 1, 0, "c")
    const verdicts = stager.takeForFlush(lane(0), [1, 2, 3])?.map(({ shadow }) => shadow)
    assert.deepStrictEqual(verdicts, ["clean", "diverged", "not_run"])
  })

  it("PW-03 the backlog counts frames, over all lanes", () => {
    const { stager } = staged()
    assert.strictEqual(stager.backlogFrames, 17)
  })

  it("PW-04 taking in another order than the queue's takes nothing and leaves the backlog", () => {
    const { ids: [first = 0, second = 0, third = 0], other, stager } = staged()
    const wrong = [
      [second, first, third],
      [first, third],
      [second],
      [first, second, third, other],
      [first, second, third, 99],
      [first, first]
    ]
    for (const ids of wrong) assert.isUndefined(stager.takeForFlush(lane(0), ids), ids.join(", "))
    assert.isUndefined(stager.takeForFlush(lane(1), [first]))
    assert.strictEqual(stager.backlogFrames, 17)
    assert.deepStrictEqual(payloads(stager.takeForFlush(lane(0), [first, second, third])), ["of 2", "of 3", "of 5"])
  })

  it("PW-04 in order it takes them all, and leaves what was staged behind them", () => {
    const { ids, stager } = staged()
    const later = stager.stage(lane(0), 11, 0, "of 11").id
    assert.deepStrictEqual(payloads(stager.takeForFlush(lane(0), ids)), ["of 2", "of 3", "of 5"])
    assert.strictEqual(stager.backlogFrames, 18)
    assert.isUndefined(stager.takeForFlush(lane(0), ids))
    assert.deepStrictEqual(payloads(stager.takeForFlush(lane(0), [later])), ["of 11"])
    assert.deepStrictEqual(stager.takeForFlush(lane(0), []), [])
    assert.strictEqual(stager.backlogFrames, 7)
  })

  it("PW-05 discarding subtracts only the frames of what it removed: 2 + 3 + 5 without the 3 is 7, and the rest drains", () => {
    const stager = new LaneStager<string>(1)
    const [two = 0, three = 0, five = 0] = [2, 3, 5].map((frames) =>
      stager.stage(lane(0), frames, 0, `of ${frames}`).id
    )
    stager.discard([three])
    assert.strictEqual(stager.backlogFrames, 7)
    assert.deepStrictEqual(payloads(stager.takeForFlush(lane(0), [two, five])), ["of 2", "of 5"])
    assert.strictEqual(stager.backlogFrames, 0)
  })

  it("PW-05 discarding removes wherever a batch stands, in any lane", () => {
    const { ids: [first = 0, second = 0, third = 0], other, stager } = staged()
    stager.discard([third, other, first])
    assert.strictEqual(stager.backlogFrames, 3)
    assert.deepStrictEqual(payloads(stager.takeForFlush(lane(0), [second])), ["of 3"])
    assert.isUndefined(stager.takeForFlush(lane(1), [other]))
  })

  it("PW-05 discarding is idempotent and ignores unknown ids, also of batches that were taken", () => {
    const { ids: [first = 0, second = 0, third = 0], stager } = staged()
    stager.discard([second])
    stager.discard([second, second, 0, -1, 99])
    assert.strictEqual(stager.backlogFrames, 14)
    assert.isDefined(stager.takeForFlush(lane(0), [first]))
    stager.discard([first])
    assert.strictEqual(stager.backlogFrames, 12)
    assert.isDefined(stager.takeForFlush(lane(0), [third]))
  })

  it("a lane that there is not is a defect", () => {
    const { stager } = staged()
    assert.throws(() => stager.stage(lane(2), 1, 0, "nowhere"), /lane that there is/)
    assert.strictEqual(stager.backlogFrames, 17)
  })
})
