/** Killing a process that appends, again and again, and judging what is left: nothing acknowledged may be missing. */
import { assert } from "@effect/vitest"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { LogRecord } from "../../src/AppendLog.ts"
import { AppendLog } from "../../src/AppendLog.ts"
import { bytesOf, readAll, textOf } from "./appendLog.ts"
import { startProgram } from "./children.ts"

/** A payload that says its number and how many were handed over with it, and whose every byte follows from that. */
export const killPayload = (number: number, count: number, length: number): Uint8Array =>
  bytesOf(`${number} ${count} ${length} ${"abcdefghij".repeat(1 + length / 10).slice(0, length)}`)

/** The number of a payload, which must be exactly what was handed over. */
const numberIn = (payload: Uint8Array): { readonly number: number; readonly count: number } => {
  const text = textOf(payload)
  const [number = Number.NaN, count = Number.NaN, length = Number.NaN] = text.split(" ", 3).map(Number)
  assert.strictEqual(text, textOf(killPayload(number, count, length)), "a payload as it was handed over")
  return { number, count }
}

export interface KillTotals {
  kills: number
  acknowledged: number
  found: number
  /** Found, though nobody was told before the kill. */
  foundUnacknowledged: number
  tornTails: number
  truncations: number
}

export const noKills = (): KillTotals => ({
  kills: 0,
  acknowledged: 0,
  found: 0,
  foundUnacknowledged: 0,
  tornTails: 0,
  truncations: 0
})

/** A log in a directory that outlives its writers. */
export class KilledLog {
  readonly totals = noKills()
  private readonly directory: string
  private nextNumber = 0
  /** Start of the record of each acknowledged number. */
  private readonly acknowledged = new Map<number, number>()
  private mayTruncate = 0

  constructor(directory: string) {
    this.directory = directory
  }

  /** Lets a writer run until `isEnough` of its lines or `wait` say so, kills it, opens the log and judges it. */
  run(options: {
    readonly seed: number
    readonly segmentBytes: number
    readonly isEnough?: (acknowledgements: number) => boolean
    readonly wait?: Effect.Effect<void>
  }): Effect.Effect<void, never, Scope.Scope> {
    const { isEnough, seed, segmentBytes, wait } = options
    return Effect.gen({ self: this }, function*() {
      const child = yield* startProgram("appendLogWriter.ts", [
        this.directory,
        `${this.nextNumber}`,
        `${seed}`,
        `${segmentBytes}`
      ])
      if (isEnough !== undefined) yield* child.until((lines) => isEnough(lines.length))
      if (wait !== undefined) yield* wait
      yield* child.kill
      yield* this.hear(child.lines)
      yield* this.judge
    })
  }

  private hear(lines: ReadonlyArray<string>) {
    return Effect.sync(() => {
      this.totals.kills++
      for (const line of lines) {
        const [what, ...numbers] = line.split(" ")
        const [first = 0, count = 0, start = 0] = numbers.map(Number)
        if (what === "ack") {
          for (let at = 0; at < count; at++) this.acknowledged.set(first + at, start)
          this.totals.acknowledged += count
        } else if (what === "truncating") {
          this.mayTruncate = Math.max(this.mayTruncate, first)
          this.totals.truncations++
        }
      }
    })
  }

  private readonly judge = Effect.gen({ self: this }, function*() {
    const log = yield* AppendLog.open({ directory: this.directory })
    const records = yield* readAll(log)
    const { firstKept } = log.watermarks()
    if (log.recovery.droppedBytes > 0) this.totals.tornTails++
    const numbers = this.checkRecords(records)
    // Behind the last record of what was truncated there was only the mark of its batch.
    assert.isTrue(firstKept <= this.mayTruncate + 16, `begins at ${firstKept}, truncated before ${this.mayTruncate}`)
    for (const [number, start] of this.acknowledged) {
      if (start < firstKept) this.acknowledged.delete(number)
      else assert.isTrue(numbers.has(number), `record ${number} was acknowledged and is lost`)
    }
    this.totals.found += numbers.size
    for (const number of numbers) {
      if (!this.acknowledged.has(number)) this.totals.foundUnacknowledged++
      this.nextNumber = Math.max(this.nextNumber, number + 1)
    }
    for (const { payload, start } of records) this.acknowledged.set(numberIn(payload).number, start)
    // Numbers that were handed over and lost are not used again.
    this.nextNumber += 1000
  }).pipe(Effect.scoped, Effect.provide(NodeVfs.layer), Effect.orDie)

  /** Each record as it was handed over, once, and with all that were handed over with it. */
  private checkRecords(records: ReadonlyArray<LogRecord>): ReadonlySet<number> {
    const numbers = new Set<number>()
    let open = 0
    let last: { readonly number: number; readonly count: number; readonly end: number } | undefined
    for (const { end, payload, start } of records) {
      const { count, number } = numberIn(payload)
      assert.isFalse(numbers.has(number), `record ${number} is there twice`)
      numbers.add(number)
      if (open === 0) open = count
      else assert.deepStrictEqual([number, count, start], [(last?.number ?? 0) + 1, last?.count, last?.end])
      open--
      last = { number, count, end }
    }
    assert.strictEqual(open, 0, "a hand-over is there in part")
    return numbers
  }
}
