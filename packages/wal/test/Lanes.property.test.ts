/**
 * Lanes against a model of three arrays: what gathers, what is closed, and what was flushed.
 *
 * Every plan is a sequence of appends and steps of the flush, in any order, the impossible ones too: these have to be
 * defects and change nothing. fast-check prints the seed and the smallest plan of a failure.
 */
import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { Lanes, type LanesOptions, type TakenEpoch } from "../src/internal/lanes.ts"
import { LaneFull } from "../src/ParallelWalErrors.ts"
import { bytesOf, concatenated, epoch, lane, type TestBatch, testBatch } from "./support/laneBatches.ts"

const laneCount = 3
const laneCapacityBytes = 100

type Step =
  | {
    readonly do: "append"
    readonly lane: number
    readonly accountedBytes: number
    readonly encodedBytes: number
    readonly frames: number
    readonly throws: boolean
  }
  | { readonly do: "seal" | "take" | "fail" | "release"; readonly isOtherEpoch: boolean }
  | { readonly do: "abandon" }

const append = fc.record({
  do: fc.constant("append" as const),
  lane: fc.nat({ max: laneCount - 1 }),
  accountedBytes: fc.oneof(
    { weight: 8, arbitrary: fc.integer({ min: 0, max: 60 }) },
    { weight: 1, arbitrary: fc.constantFrom(99, 100, 101, 250) }
  ),
  encodedBytes: fc.oneof(
    { weight: 8, arbitrary: fc.nat({ max: 40 }) },
    { weight: 1, arbitrary: fc.constantFrom(63, 64, 65, 200) }
  ),
  frames: fc.nat({ max: 4 }),
  throws: fc.nat({ max: 15 }).map((n) => n === 0)
})

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 12, arbitrary: append },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom("seal" as const, "take" as const, "fail" as const, "release" as const),
      isOtherEpoch: fc.nat({ max: 15 }).map((n) => n === 0)
    })
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("abandon" as const) }) }
)

interface ModelBatch {
  readonly id: number
  readonly lane: number
  readonly batch: TestBatch
  readonly isOverflowed: boolean
}

const sum = (numbers: ReadonlyArray<number>) => numbers.reduce((total, number) => total + number, 0)

const overflowedIn = (batches: ReadonlyArray<ModelBatch>) =>
  sum(batches.filter(({ isOverflowed }) => isOverflowed).map(({ batch }) => batch.accountedBytes))

class Model {
  gathering: Array<ModelBatch> = []
  closed: { readonly state: "sealed" | "flushing"; readonly batches: ReadonlyArray<ModelBatch> } | undefined
  isLatched = false
  /** The last one that was sealed, if any was. */
  epoch = 0
  hasSealed = false
  nextId = 1
  readonly options: LanesOptions

  constructor(options: LanesOptions) {
    this.options = options
  }

  usedBytes(id: number): number {
    return sum(
      this.gathering.filter((entry) => entry.lane === id && !entry.isOverflowed).map(({ batch }) =>
        batch.accountedBytes
      )
    )
  }

  get overflowedBytes(): number {
    return overflowedIn(this.gathering) + overflowedIn(this.closed?.batches ?? [])
  }

  append(id: number, batch: TestBatch): "stored" | "overflowed" | "refused" {
    const fits = this.usedBytes(id) + batch.accountedBytes <= laneCapacityBytes
    const isAccepted = fits || this.options.overflowPolicy === "overflow"
    if (isAccepted) this.gathering.push({ id: this.nextId++, lane: id, batch, isOverflowed: !fits })
    if (batch.accountedBytes > laneCapacityBytes) this.isLatched = true
    if (this.overflowedBytes > this.options.overflowLimitBytes) this.isLatched = true
    return fits ? "stored" : isAccepted ? "overflowed" : "refused"
  }

  /** What can be asked of the lanes at any time. */
  get view() {
    const queued = this.closed?.state === "sealed" ? [...this.closed.batches, ...this.gathering] : this.gathering
    return {
      isEmpty: this.gathering.length === 0 && (this.closed?.batches.length ?? 0) === 0,
      canSeal: this.closed === undefined,
      isLatched: this.isLatched,
      backlogFrames: sum(queued.map(({ batch }) => batch.frames)),
      backlogBytes: sum(queued.map(({ batch }) => batch.encodedBytes)),
      overflowedBytes: this.overflowedBytes,
      oldestStagedAt: this.gathering[0]?.batch.stagedAt,
      occupancy: Math.max(...[0, 1, 2].map((id) => this.usedBytes(id))) / laneCapacityBytes
    }
  }
}

const viewOf = (lanes: Lanes<TestBatch>): Model["view"] => ({
  isEmpty: lanes.isEmpty,
  canSeal: lanes.canSeal,
  isLatched: lanes.isLatched,
  backlogFrames: lanes.backlogFrames,
  backlogBytes: lanes.backlogBytes,
  overflowedBytes: lanes.overflowedBytes,
  oldestStagedAt: lanes.oldestStagedAt,
  occupancy: lanes.occupancy
})

const checkTaken = (taken: TakenEpoch<TestBatch>, model: Model) => {
  const batches = model.closed?.batches ?? []
  assert.strictEqual(taken.epoch, epoch(model.epoch))
  assert.deepStrictEqual(
    taken.batches.map((staged) => ({ id: staged.id, lane: staged.lane, batch: staged.payload.batch })),
    batches.map(({ batch, id, lane: laneId }) => ({ id, lane: lane(laneId), batch }))
  )
  assert.deepStrictEqual(taken.batches.map(({ frames }) => frames), batches.map(({ batch }) => batch.frames))
  const bytes = concatenated(taken.buffers)
  assert.deepStrictEqual(bytes, concatenated(batches.map(({ batch }) => bytesOf(batch))))
  assert.strictEqual(taken.bytes, bytes.length)
  for (const { payload: { batch, memory, offset, position } } of taken.batches) {
    const expected = bytesOf(batch)
    assert.deepStrictEqual(memory.slice(offset, offset + batch.encodedBytes), expected)
    assert.deepStrictEqual(bytes.slice(position, position + batch.encodedBytes), expected)
  }
  const framesIn = (id: number) => sum(batches.filter((entry) => entry.lane === id).map(({ batch }) => batch.frames))
  assert.deepStrictEqual(taken.laneFrames, [0, 1, 2].map(framesIn))
  assert.strictEqual(taken.frames, sum(taken.laneFrames))
}

/** Carries a plan out, on the lanes and on the model, and compares them after every step. */
const run = (options: LanesOptions, plan: ReadonlyArray<Step>) => {
  const lanes = new Lanes<TestBatch>(options)
  const model = new Model(options)
  let taken: TakenEpoch<TestBatch> | undefined
  for (const [at, next] of plan.entries()) {
    if (next.do === "append") {
      const batch = testBatch({ ...next, seed: at, stagedAt: at })
      if (next.throws) {
        const willFill = options.overflowPolicy === "overflow" ||
          model.usedBytes(next.lane) + batch.accountedBytes <= laneCapacityBytes
        if (!willFill) continue
        const fill = () => assert.fail("from within")
        assert.throws(() => lanes.append(lane(next.lane), { ...batch, fill }), /from within/)
      } else {
        const outcome = lanes.append(lane(next.lane), batch)
        assert.strictEqual(outcome instanceof LaneFull ? "refused" : outcome, model.append(next.lane, batch))
      }
    } else if (next.do === "abandon") {
      const lost = [...model.closed?.batches ?? [], ...model.gathering].map(({ id }) => id)
      assert.deepStrictEqual(lanes.abandon().map(({ id }) => id), lost)
      model.gathering = []
      model.closed = undefined
      model.isLatched = false
    } else if (next.do === "seal") {
      const named = next.isOtherEpoch ? model.epoch : model.epoch + 1
      if (model.closed === undefined && !(next.isOtherEpoch && model.hasSealed)) {
        lanes.seal(epoch(named))
        model.epoch = named
        model.hasSealed = true
        model.closed = { state: "sealed", batches: model.gathering }
        model.gathering = []
      } else assert.throws(() => lanes.seal(epoch(named)))
    } else {
      const named = epoch(next.isOtherEpoch ? model.epoch + 1 : model.epoch)
      const isIt = !next.isOtherEpoch && model.closed !== undefined
      if (next.do === "release") {
        if (isIt && model.closed?.state === "flushing") {
          // Whatever was appended meanwhile, what is being written is as it was.
          if (taken !== undefined) checkTaken(taken, model)
          lanes.release(named)
          model.closed = undefined
          if (model.overflowedBytes === 0) model.isLatched = false
        } else assert.throws(() => lanes.release(named))
      } else if (isIt && model.closed !== undefined) {
        // A flush that fails is the step that changes nothing: the same is there to be taken again.
        taken = lanes.takeSealed(named)
        model.closed = { ...model.closed, state: "flushing" }
        checkTaken(taken, model)
      } else assert.throws(() => lanes.takeSealed(named))
    }
    assert.deepStrictEqual(viewOf(lanes), model.view)
  }
}

describe("Lanes, against a model", () => {
  for (const overflowPolicy of ["block", "overflow"] as const) {
    it(`PW-06 PW-07 any sequence of appends and flushes does what arrays would do: ${overflowPolicy}`, () => {
      const options = { laneCount, laneCapacityBytes, overflowPolicy, overflowLimitBytes: 150, chunkBytes: 64 }
      fc.assert(fc.property(fc.array(step, { maxLength: 60 }), (plan) => run(options, plan)), { numRuns: 1000 })
    })
  }
})
