/**
 * Random lives of a parallel WAL: batches, cycles beside them, checkpoints, faults, crashes, restarts. fast-check prints
 * the seed and the smallest plan of a failure.
 *
 * The model knows what was accepted, in order. What is visible is always a prefix of it with dense sequences; what was
 * visible once is there after every crash; and what a recovery adds or gives up is a whole number of epochs.
 */
import { assert, describe, it } from "@effect/vitest"
import { toPageNumber } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import { Effect, Exit, Logger, Scope } from "effect"
import fc from "fast-check"
import { certificatesPath } from "../src/CertificateFormat.ts"
import { page1, sameBytes } from "./support/pages.ts"
import { batchOf, imageOf, openByHand, type OpenedParallel, pageSize } from "./support/parallelWal.ts"
import { memoryPath, prepareDisk } from "./support/sqliteWal.ts"

const pageCount = 6
const segment = /-wal-seg-/
const certificates = certificatesPath(memoryPath)

const faults = [
  { operation: "open", path: segment, fault: { kind: "error", code: "ENOSPC" } },
  { operation: "write", path: segment, fault: { kind: "shortWrite", bytes: 100 } },
  { operation: "syncData", path: segment, fault: { kind: "lostSync" } },
  { operation: "rename", path: segment, fault: { kind: "error", code: "EIO" } },
  { operation: "syncDirectory", path: "/data", fault: { kind: "error", code: "EIO" } },
  { operation: "write", path: certificates, fault: { kind: "shortWrite", bytes: 20 } },
  { operation: "syncData", path: certificates, fault: { kind: "error", code: "EIO" } },
  { operation: "syncData", path: certificates, fault: { kind: "lostSync" } }
] as const

type Step =
  | { readonly do: "submit"; readonly writer: number; readonly pages: ReadonlyArray<number> }
  | { readonly do: "cycle"; readonly turns: number; readonly isAwaited: boolean }
  | { readonly do: "fault"; readonly which: number; readonly times: number }
  | { readonly do: "checkpoint"; readonly mode: "passive" | "full" | "truncate" }
  | { readonly do: "force" | "resume" }
  | { readonly do: "restart"; readonly how: "close" | "lost" | "kept" | number }

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({
      do: fc.constant("submit" as const),
      writer: fc.nat({ max: 2 }),
      pages: fc.uniqueArray(fc.integer({ min: 2, max: pageCount }), { minLength: 1, maxLength: 3 })
    })
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant("cycle" as const),
      turns: fc.nat({ max: 12 }),
      isAwaited: fc.boolean()
    })
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("fault" as const),
      which: fc.nat({ max: faults.length - 1 }),
      times: fc.integer({ min: 1, max: 3 })
    })
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("checkpoint" as const),
      mode: fc.constantFrom("passive" as const, "full" as const, "truncate" as const)
    })
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("force" as const, "resume" as const) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("restart" as const),
      how: fc.oneof(fc.constantFrom("close" as const, "lost" as const, "kept" as const), fc.nat({ max: 1000 }))
    })
  }
)

interface Plan {
  readonly steps: ReadonlyArray<Step>
  readonly control: { readonly mode: "auto" | "conservative" | "shadow_compare" }
  readonly laneRecords: number
}

const plan: fc.Arbitrary<Plan> = fc.record({
  steps: fc.array(step, { minLength: 4, maxLength: 30 }),
  control: fc.record({ mode: fc.constantFrom("auto" as const, "conservative" as const, "shadow_compare" as const) }),
  // Small lanes overflow.
  laneRecords: fc.constantFrom(2, 1000)
})

interface Accepted {
  readonly seq: bigint
  readonly epoch: bigint
  readonly pages: ReadonlyArray<number>
  readonly stamp: number
}

/** One disk through all its lives. */
class Life {
  readonly disk = prepareDisk(MemoryDisk.make())
  /** What can be visible, oldest first; sequences of intervals that were given up are missing in it. */
  private accepted: Array<Accepted> = []
  private lastSeq = 0n
  private stamps = 0
  /** The highest sequence that was visible in any life, or acknowledged. */
  private seen = 0n
  private readonly plan: Plan
  private injected: Array<() => void> = []
  commits = 0
  restarts = 0

  constructor(plan: Plan) {
    this.plan = plan
  }

  readonly run = Effect.gen({ self: this }, function*() {
    let steps = this.plan.steps
    while (steps.length > 0) {
      const scope = yield* Scope.make()
      const opened = yield* Scope.provide(this.open, scope)
      const end = steps.findIndex((step) => step.do === "restart")
      const life = end < 0 ? steps : steps.slice(0, end)
      const writers = yield* Scope.provide(
        Effect.forEach(Array.from({ length: 3 }), () => opened.wal.writer),
        scope
      )
      for (const step of life) {
        yield* this.act(opened, writers, step)
        this.check(opened)
      }
      const how = steps[end]
      steps = end < 0 ? [] : steps.slice(end + 1)
      for (const remove of this.injected.splice(0)) remove()
      if (how?.do === "restart" && how.how !== "close") this.disk.crash(how.how)
      yield* Scope.close(scope, Exit.void)
      this.restarts++
    }
    const last = yield* Effect.scoped(Effect.flatMap(this.open, ({ wal }) => Effect.sync(() => wal.published())))
    const again = yield* Effect.scoped(Effect.map(this.open, ({ wal }) => wal.published()))
    assert.strictEqual(again, last, "another recovery changes nothing")
  })

  private readonly open = Effect.gen({ self: this }, function*() {
    const { control, laneRecords } = this.plan
    const opened = yield* openByHand(this.disk, {
      control: { ...control, laneCount: 2 },
      laneCapacityBytes: laneRecords * 560,
      overflowLimitBytes: 3 * 560,
      checkpointOnClose: laneRecords === 2
    })
    this.recover(opened)
    if (this.lastSeq === 0n) yield* this.first(opened)
    return opened
  })

  /** Every page is there from the first commit on. */
  private first(opened: OpenedParallel) {
    return Effect.gen({ self: this }, function*() {
      const pages = Array.from({ length: pageCount - 1 }, (_, at) => at + 2)
      const stamp = ++this.stamps
      const batch = batchOf(stamp, Object.fromEntries(pages.map((page) => [page, stamp])), pageCount)
      const header = { page: toPageNumber(1), after: page1(pageSize, pageCount, 1) }
      const writer = yield* opened.wal.writer
      const { commitSeq, epoch } = yield* writer.submitBatch({ ...batch, records: [header, ...batch.records] })
      this.accept({ seq: commitSeq ?? 0n, epoch, pages, stamp })
      assert.isTrue(yield* opened.wal.advanceAndFlush())
    })
  }

  private accept(accepted: Accepted): void {
    assert.strictEqual(accepted.seq, this.lastSeq + 1n, "sequences are dense")
    this.lastSeq = accepted.seq
    this.accepted.push(accepted)
    this.commits++
  }

  private act(
    { wal }: OpenedParallel,
    writers: ReadonlyArray<Effect.Success<OpenedParallel["wal"]["writer"]>>,
    step: Step
  ): Effect.Effect<unknown, unknown> {
    switch (step.do) {
      case "submit": {
        const stamp = ++this.stamps
        const writer = writers[step.writer]
        if (writer === undefined) return Effect.die("there are three writers")
        const batch = batchOf(stamp, Object.fromEntries(step.pages.map((page) => [page, stamp])), pageCount)
        return Effect.matchEffect(writer.submitBatch(batch), {
          onFailure: ({ _tag }) => Effect.sync(() => assert.strictEqual(_tag, "WalPoisoned")),
          onSuccess: ({ commitSeq, epoch }) =>
            Effect.andThen(
              Effect.sync(() => this.accept({ seq: commitSeq ?? 0n, epoch, pages: step.pages, stamp })),
              // Whoever is told that it is durable finds it again, whatever happens.
              Effect.forkDetach(
                Effect.tap(wal.awaitDurable(epoch, "1 hour"), () => Effect.sync(() => this.see(commitSeq ?? 0n)))
              )
            )
        })
      }
      case "cycle": {
        const cycle = Effect.exit(wal.advanceAndFlush())
        return step.isAwaited ? cycle : Effect.andThen(
          Effect.forkDetach(cycle, { startImmediately: true }),
          Effect.repeat(Effect.yieldNow, { times: step.turns })
        )
      }
      case "fault":
        return Effect.sync(() => {
          const fault = faults[step.which]
          if (fault !== undefined) this.injected.push(this.disk.inject({ ...fault, times: step.times }).remove)
        })
      case "checkpoint":
        return Effect.exit(wal.checkpoint(step.mode, { busyTimeout: 0 }))
      case "force":
        return wal.forceConservative
      case "resume":
        return wal.resumeParallel
      case "restart":
        return Effect.void
    }
  }

  private see(seq: bigint): void {
    if (seq > this.seen) this.seen = seq
  }

  /** What is visible is what was accepted up to the published sequence. */
  private check(opened: OpenedParallel): void {
    const published = opened.wal.published()
    assert.isTrue(published >= this.seen, `published went back from ${this.seen} to ${published}`)
    assert.isTrue(published <= this.lastSeq)
    this.see(published)
    assert.isTrue(this.shows(opened, published), `the pages of commit ${published}`)
  }

  /** Finds out which epochs a recovery has kept: all that were seen, and of the others the oldest, whole. */
  private recover(opened: OpenedParallel): void {
    const tip = opened.wal.published()
    assert.isTrue(tip >= this.seen, `commit ${this.seen} was acknowledged, and ${tip} is there`)
    assert.isTrue(tip <= this.lastSeq)
    const ends = this.accepted.filter(({ epoch, seq }, at) =>
      seq >= this.seen && this.accepted[at + 1]?.epoch !== epoch
    )
      .map(({ seq }) => seq)
    const kept = [this.seen, ...ends].filter((end) => end <= tip).findLast((end) => this.shows(opened, end))
    assert.isDefined(kept, `the pages after a recovery with the tip ${tip}; ${this.seen} was seen`)
    this.accepted = this.accepted.filter(({ seq }) => seq <= (kept ?? 0n))
    this.lastSeq = tip
    this.see(tip)
  }

  private shows({ log }: OpenedParallel, seq: bigint): boolean {
    if (seq === 0n) return true
    const stamps = new Map<number, number>()
    for (const commit of this.accepted) {
      if (commit.seq <= seq) { for (const page of commit.pages) stamps.set(page, commit.stamp) }
    }
    const reader = log.openReader()
    const isShown = Array.from(stamps).every(([page, stamp]) =>
      sameBytes(reader.readSync(toPageNumber(page)), imageOf(page, stamp))
    )
    reader.release()
    return isShown
  }
}

/** Fails instead of waiting for ever when a plan has left somebody hanging. */
const orHung = async <A>(promise: Promise<A>): Promise<A> => {
  let timer: NodeJS.Timeout | undefined
  const hung = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("somebody is left waiting")), 5000)
  })
  try {
    return await Promise.race([promise, hung])
  } finally {
    clearTimeout(timer)
  }
}

describe("ParallelWal: random lives", () => {
  it("PW-08 PW-11 PW-15 PW-29 a visible prefix, dense sequences, nothing acknowledged is ever lost", async () => {
    let commits = 0
    let restarts = 0
    await fc.assert(
      fc.asyncProperty(plan, async (plan) => {
        const life = new Life(plan)
        await orHung(Effect.runPromise(Effect.provide(life.run, Logger.layer([]))))
        commits += life.commits
        restarts += life.restarts
      }),
      { numRuns: 150, interruptAfterTimeLimit: 60_000, markInterruptAsFailure: true }
    )
    assert.isAbove(commits, 500, "the plans do something")
    assert.isAbove(restarts, 150)
  })
})
