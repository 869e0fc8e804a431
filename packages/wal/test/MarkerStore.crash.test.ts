/**
 * Every disk that a power loss or a kill can leave of a marker stream: what was acknowledged is there, what is there is a
 * prefix, nothing is there twice, a second start changes nothing, and the stream goes on.
 */
import { assert, describe, it } from "@effect/vitest"
import type { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import { Cause, Effect } from "effect"
import { isGenesis, type Marker } from "../src/MarkerFormat.ts"
import type { MarkerScan } from "../src/MarkerStore.ts"
import {
  append,
  chainOf,
  diskOf,
  filesOf,
  open,
  perSegment,
  scan,
  segmentFile,
  seqsOf,
  visited,
  withVfs
} from "./support/markers.ts"
import { flipped } from "./support/walFiles.ts"

/** What is in the stream on a disk, and what a start would say of it. */
const look = (disk: MemoryDisk, per = perSegment) => Effect.zip(scan(disk, undefined, per), visited(disk, 0, per))

const tally = { damaged: 0, torn: 0, states: 0 }

/** What a power loss leaves is a torn end, or damage of which the scan says that it could be one. */
const assertPowerLoss = ({ damage, tornBytes }: MarkerScan, label: string) => {
  tally.states++
  if (tornBytes > 0) tally.torn++
  if (damage === undefined) return
  tally.damaged++
  assert.isTrue(damage.couldBeTorn, `${label}: ${damage.issue.message}`)
}

const commitsOf = (markers: ReadonlyArray<Marker>) => markers.filter((marker) => !isGenesis(marker))

/**
 * A start on such a disk, that appends. Damage is accepted: none of it was acknowledged, which `kept` shows. The start
 * itself changes nothing of what counts; a second one finds what the first one left.
 */
const goOn = (disk: MemoryDisk, kept: ReadonlyArray<Marker>, label: string, { per = perSegment, tip = 0 } = {}) =>
  Effect.gen(function*() {
    yield* withVfs(disk, (vfs) => open(vfs, { tip, per }))
    const [opened, first] = yield* look(disk, per)
    assert.deepStrictEqual([opened.damage, opened.tornBytes, opened.temporaries], [undefined, 0, []], label)
    assert.deepStrictEqual(first.slice(0, kept.length), [...kept], label)
    assert.isTrue(first.slice(kept.length).every(isGenesis) && first.length <= kept.length + 1, label)
    const bytes = new Map(disk.files.map((path) => [path, disk.readFile(path)]))
    yield* withVfs(disk, (vfs) => open(vfs, { tip, per }))
    assert.deepStrictEqual(new Map(disk.files.map((path) => [path, disk.readFile(path)])), bytes, label)
    const added = yield* withVfs(disk, (vfs) => Effect.flatMap(open(vfs, { tip, per }), (files) => append(files, 3)))
    disk.crash("lost")
    const [last, all] = yield* look(disk, per)
    assert.strictEqual(last.damage, undefined, label)
    assert.deepStrictEqual(all, [...first, ...added], label)
    const seqs = seqsOf(all)
    assert.strictEqual(new Set(seqs).size, seqs.length, label)
  }).pipe(Effect.catchCause((cause) => Effect.die(new Error(`${label}: ${Cause.pretty(cause)}`))))

interface Mark {
  /** Records that were acknowledged, all of them, and records that were about to be. */
  readonly acknowledged: number
  readonly handedOver: number
}

describe("MarkerFiles and crashes", () => {
  it.effect("RC-14 RC-26 a power loss at any write and sync keeps what was acknowledged, and no more than was handed over", () =>
    Effect.gen(function*() {
      // Four thousand bytes and some: batches lie in several sectors.
      const per = 40
      const disk = diskOf()
      const trace = disk.record<Mark>()
      const markers: Array<Marker> = []
      yield* withVfs(disk, (vfs) =>
        Effect.gen(function*() {
          const files = yield* open(vfs, { per })
          markers.push(files.last())
          trace.mark({ acknowledged: 1, handedOver: 1 })
          for (const count of [1, 2, 30, 1, 14, 21, 3]) {
            trace.mark({ acknowledged: markers.length, handedOver: markers.length + count })
            markers.push(...yield* append(files, count))
            trace.mark({ acknowledged: markers.length, handedOver: markers.length })
          }
        }))
      trace.stop()
      const before = { ...tally }
      const lengths = new Set<number>()
      for (const state of trace.crashStates({ exhaustiveUpTo: 6, perStep: 12 })) {
        const [found, kept] = yield* look(state.disk, per)
        assertPowerLoss(found, state.label)
        const { acknowledged, handedOver } = state.marks.at(-1) ?? { acknowledged: 0, handedOver: 1 }
        assert.deepStrictEqual(kept, markers.slice(0, kept.length), state.label)
        assert.isAtLeast(kept.length, acknowledged, state.label)
        assert.isAtMost(kept.length, handedOver, state.label)
        lengths.add(kept.length)
        yield* goOn(state.disk, kept, state.label, { per })
      }
      assert.isAbove(tally.states - before.states, 150)
      assert.isAbove(tally.torn - before.torn, 30)
      assert.isAbove(tally.damaged - before.damaged, 0)
      assert.isAbove(lengths.size, 12)
    }))

  it.effect("a killed process loses nothing that it wrote, and a power loss after the next start neither", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      const trace = disk.record<number>()
      yield* withVfs(disk, (vfs) =>
        Effect.gen(function*() {
          const files = yield* open(vfs)
          for (const count of [3, 14, 2]) trace.mark((yield* append(files, count)).length)
        }))
      trace.stop()
      for (let step = 0; step <= trace.steps.length; step++) {
        const killed = trace.diskAfter(step)
        const [found, kept] = yield* look(killed)
        assert.deepStrictEqual([found.damage, found.tornBytes], [undefined, 0])
        const acknowledged = trace.crashAfter(step, "kept").marks.reduce((sum, count) => sum + count, 0)
        assert.isAtLeast(commitsOf(kept).length, acknowledged)
        yield* goOn(killed, kept, `killed after step ${step}`)
      }
    }))

  it.effect("a power loss during a start: while a torn end is cut off, while a part begins behind other logs", () =>
    Effect.gen(function*() {
      const markers = chainOf([{ start: 0, commits: 14 }])
      for (const tip of [0, 27]) {
        const files = filesOf(markers)
        const bytes = files.get(segmentFile(1)) ?? new Uint8Array(0)
        files.set(segmentFile(1), bytes.slice(0, bytes.length - 100))
        const disk = diskOf(files)
        const trace = disk.record<"open">()
        yield* withVfs(disk, (vfs) => open(vfs, { tip }))
        trace.mark("open")
        trace.stop()
        for (const state of trace.crashStates({ exhaustiveUpTo: 8, perStep: 8 })) {
          const [found, kept] = yield* look(state.disk)
          assert.deepStrictEqual([found.damage, kept.slice(0, 13)], [undefined, markers.slice(0, 13)], state.label)
          assert.isTrue(kept.slice(13).every(isGenesis), state.label)
          if (tip > 0 && state.marks.length > 0) assert.deepStrictEqual(seqsOf(kept.slice(13)), [30], state.label)
          yield* goOn(state.disk, kept, state.label, { tip })
        }
      }
    }))

  it.effect("RC-26 a power loss while accepted damage is cleared away: damage again, or done, and no sequence twice", () =>
    Effect.gen(function*() {
      const markers = chainOf([{ start: 0, commits: 34 }])
      let states = 0
      let again = 0
      for (const [id, offset, kept] of [[1, 36 + 88 * 4, 14], [2, 0, 20], [0, 40, 0]] as const) {
        const files = filesOf(markers)
        files.set(segmentFile(id), flipped(files.get(segmentFile(id)) ?? new Uint8Array(0), offset))
        const disk = diskOf(files)
        const trace = disk.record<"open">()
        yield* withVfs(disk, (vfs) => open(vfs))
        trace.mark("open")
        trace.stop()
        for (const state of trace.crashStates({ exhaustiveUpTo: 8, perStep: 8 })) {
          states++
          const [found] = yield* look(state.disk)
          if (found.damage !== undefined) again++
          if (state.marks.length > 0) assert.strictEqual(found.damage, undefined, state.label)
          yield* withVfs(state.disk, (vfs) => Effect.flatMap(open(vfs), (files) => append(files, 1)))
          const [after, all] = yield* look(state.disk)
          assert.strictEqual(after.damage, undefined, state.label)
          assert.deepStrictEqual(all.slice(0, kept), markers.slice(0, kept), state.label)
          // Sequences up to 34 have been handed out once.
          for (const { seq } of all.slice(kept)) assert.isAbove(Number(seq), 34, state.label)
          assert.isAtLeast(commitsOf(all.slice(kept)).length, 1, state.label)
        }
      }
      assert.isAbove(again, 10)
      assert.isAbove(states, 40)
    }))

  it.effect("GC-07 after a failed sync what the system shows and the disk has not is written again by the next start", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      yield* withVfs(disk, (vfs) =>
        Effect.gen(function*() {
          const files = yield* open(vfs)
          yield* append(files, 4)
          disk.inject({ operation: "syncData", path: segmentFile(0), fault: { kind: "lostSync" } })
          const error = yield* Effect.flip(append(files, 3))
          assert.strictEqual(error.operation, "syncData")
        }))
      disk.kill()
      const [, shown] = yield* look(disk)
      assert.strictEqual(shown.length, 8)
      yield* goOn(disk, shown, "after a lost sync")
    }))
})
