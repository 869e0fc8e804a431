import { assert, describe, it } from "@effect/vitest"
import { Controller, type Decision } from "../src/ParallelWalController.ts"
import { controlled, fixedLengths, type Thinking, throughput, type World } from "./support/closedLoop.ts"

const epochLengths = [500, 1000, 2000, 5000, 10_000, 20_000]

const about = (mean: number, spread: number): Thinking => (random) => mean * (1 + spread * (2 * random() - 1))
const exponential = (mean: number): Thinking => (random) => -mean * Math.log(1 - random())

const thinkings: Readonly<Record<string, Thinking>> = {
  "always 20 us": () => 20,
  "10 to 30 us": about(20, 0.5),
  "20 us in the mean": exponential(20),
  "100 to 300 us": about(200, 0.5),
  "0.5 to 1.5 ms": about(1000, 0.5),
  "1 ms in the mean": exponential(1000),
  "5 ms in the mean": exponential(5000),
  "1 to 3 ms": about(2000, 0.5),
  "always 1 ms": () => 1000,
  "50 us, and 1 ms one time in two": (random) => random() < 0.5 ? 1000 : 50,
  "20 us, and 5 ms one time in ten": (random) => random() < 0.1 ? 5000 : 20
}

const worldOf = (writers: number, thinking: Thinking, fixedMicros: number, microsPerRecord: number): World => ({
  writers,
  thinking,
  fixedMicros,
  microsPerRecord,
  commits: Math.max(3000, Math.min(15_000, writers * 60)),
  seed: 7,
  turnMicros: 5
})

const bestFixed = (world: World): number =>
  Math.max(...fixedLengths.flatMap((fixed) => epochLengths.map((length) => throughput(world, fixed(length)))))

describe("ParallelWalController in simulation", () => {
  for (const [fixedMicros, microsPerRecord] of [[1000, 2], [500, 10], [200, 20], [3000, 0]] as const) {
    for (const writers of [1, 8, 64, 256]) {
      it(`PW-33 ${writers} writers, ${fixedMicros} us a flush and ${microsPerRecord} us a record: never more than 5 % below the best fixed epoch length`, () => {
        let sum = 0
        for (const [name, thinking] of Object.entries(thinkings)) {
          const world = worldOf(writers, thinking, fixedMicros, microsPerRecord)
          const ratio = throughput(world, controlled(new Controller())) / bestFixed(world)
          assert.isAtLeast(ratio, 0.95, `thinking ${name}`)
          sum += ratio
        }
        // No fixed length suits every writer; over all of them the controller is at least as good as the best for each.
        assert.isAtLeast(sum / Object.keys(thinkings).length, 0.99)
      })
    }
  }

  it("PW-33 follows when the writers change", () => {
    let isHasty = true
    const hasty = exponential(20)
    const slow = exponential(5000)
    const world = worldOf(64, (random) => (isHasty ? hasty : slow)(random), 1000, 2)
    const controller = new Controller()
    throughput({ ...world, commits: 20_000 }, controlled(controller))
    isHasty = false
    const fresh = throughput({ ...world, commits: 20_000 }, controlled(new Controller()))
    // The same controller, with what it has learned about the hasty ones; its clock goes on.
    const later = controlled(controller)
    const changed = throughput({ ...world, commits: 20_000 }, {
      ...later,
      arrived: (now) => later.arrived(now + 1e9),
      flushed: (now, flush) => later.flushed(now + 1e9, flush),
      closeAt: (now, waiters, oldestAt) => {
        const closeAt = later.closeAt(now + 1e9, waiters, oldestAt + 1e9)
        return closeAt > now + 1e9 ? closeAt - 1e9 : now
      }
    })
    assert.isAtLeast(changed / fresh, 0.95)
  })

  it("PW-33 does not wait for writers that are gone", () => {
    // After 4000 batches each writer that thinks again stops for good, but for one.
    const controller = new Controller()
    let batches = 0
    const leaving: Thinking = (random) => {
      batches += 1
      return batches > 4000 && batches <= 4063 ? 1e9 : 10 + 10 * random()
    }
    const late: Array<Decision> = []
    const closing = controlled(controller, (decision) => {
      if (batches > 4200) late.push(decision)
    })
    throughput({ ...worldOf(64, leaving, 1000, 2), commits: 4500 }, closing)
    assert.isAtLeast(late.length, 200)
    const kept = late.filter(({ action }) => action === "keep_current")
    assert.isAtMost(kept.length, late.length / 20)
  })

  it("PW-33 the same seed gives the same decisions", () => {
    const decisionsOf = () => {
      const controller = new Controller({ maxDecisions: 10_000 })
      throughput(worldOf(64, exponential(200), 1000, 2), controlled(controller))
      return controller.decisions
    }
    const decisions = decisionsOf()
    assert.isAbove(decisions.length, 100)
    assert.deepStrictEqual(decisionsOf(), decisions)
    assert.sameMembers([...new Set(decisions.map(({ action }) => action))], ["seal_now", "keep_current"])
  })
})
