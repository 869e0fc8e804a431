/** The files of a marker stream: beginning, appending, rotating, going on, and reading what is there. */
import { assert, describe, it } from "@effect/vitest"
import type { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import { Cause, Effect, Exit, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import fc from "fast-check"
import { makeReader } from "../src/internal/markerReader.ts"
import { isGenesis, type Marker } from "../src/MarkerFormat.ts"
import { makeMarkerReader, type MarkerReader, MarkerUnreadable, openMarkers, scanMarkers } from "../src/MarkerStore.ts"
import {
  append,
  batchOf,
  capsuleNumber,
  chainOf,
  database,
  directory,
  diskOf,
  filesOf,
  headerBytes,
  headerOf,
  open,
  perSegment,
  recordBytes,
  recordOf,
  scan,
  segmentFile,
  seqOf,
  seqsOf,
  upTo,
  visited,
  withVfs,
  zeroId
} from "./support/markers.ts"
import { concat, flipped } from "./support/walFiles.ts"

const at = (slot: number) => headerBytes + slot * recordBytes

/** What a stream amounts to, which has to be without a flaw. */
const whole = (disk: MemoryDisk) =>
  Effect.gen(function*() {
    const { damage, foreign, last, segments, temporaries, tornBytes } = yield* scan(disk)
    assert.deepStrictEqual([damage, tornBytes, temporaries, foreign], [undefined, 0, [], []])
    const markers = yield* visited(disk)
    assert.deepStrictEqual(markers.at(-1), last)
    return { segments: segments.map(({ id, records }) => [Number(id), records] as const), markers }
  })

describe("openMarkers: beginning", () => {
  it.effect("a stream of a database without any log begins with segment 0 and its genesis record", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(1_700_000_000_000)
      const disk = diskOf()
      yield* withVfs(disk, (vfs) =>
        Effect.gen(function*() {
          const files = yield* open(vfs)
          assert.strictEqual(files.next(), 1n)
          assert.strictEqual(files.directory, directory)
          assert.deepStrictEqual(disk.unsynced, [])
          yield* append(files, 1)
        }))
      const { markers, segments } = yield* whole(disk)
      assert.deepStrictEqual(segments, [[0, 2]])
      const [genesis, first] = markers
      assert.deepStrictEqual([genesis?.seq, genesis?.capsule, genesis?.proof, genesis?.previous], [
        0n,
        zeroId,
        zeroId,
        zeroId
      ])
      assert.strictEqual(genesis?.timeUnixNanos, 1_700_000_000_000_000_000n)
      assert.isTrue(genesis !== undefined && isGenesis(genesis))
      assert.deepStrictEqual([first?.seq, first?.capsule, first?.previous], [1n, capsuleNumber(1), genesis?.id])
      assert.strictEqual(disk.readFile(segmentFile(0))?.length, at(2))
    }))

  it.effect("where other logs have used sequences it begins, or goes on, in the first segment above them", () =>
    Effect.gen(function*() {
      for (
        const [before, tip, first] of [
          [0, 1, 10],
          [0, 9, 10],
          [0, 10, 20],
          [4, 5, 10],
          [4, 4, undefined],
          [9, 9, undefined],
          [9, 10, 20],
          [14, 15, 20]
        ] as const
      ) {
        const existing = before === 0 ? [] : chainOf([{ start: 0, commits: before }])
        const disk = diskOf(filesOf(existing))
        const next = yield* withVfs(disk, (vfs) =>
          Effect.gen(function*() {
            const files = yield* open(vfs, { tip })
            const next = files.next()
            yield* append(files, 2)
            return next
          }))
        const label = `${before} markers, tip ${tip}`
        assert.strictEqual(next, BigInt(first === undefined ? before + 1 : first + 1), label)
        const { markers } = yield* whole(disk)
        const added = first === undefined ? upTo(before + 2, before + 1) : upTo(first + 2, first)
        assert.deepStrictEqual(seqsOf(markers), [...seqsOf(existing), ...added], label)
        assert.isTrue(markers.every((marker) => marker.seq <= before || marker.seq > tip), label)
      }
    }))

  it.effect("opened again and again it goes on where it was, and makes everything durable that it found", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      for (let life = 0; life < 7; life++) {
        yield* withVfs(disk, (vfs) =>
          Effect.gen(function*() {
            const files = yield* open(vfs)
            assert.deepStrictEqual(disk.unsynced, [])
            assert.strictEqual(files.next(), BigInt(1 + life * 4))
            // Written, not synced; the process is killed.
            const from = files.next()
            const { bytes } = batchOf(files, 4)
            yield* files.write([bytes], from)
          }))
        disk.kill()
      }
      yield* withVfs(disk, (vfs) => open(vfs))
      disk.crash("lost")
      assert.deepStrictEqual(seqsOf((yield* whole(disk)).markers), upTo(28))
    }))

  it.effect("RC-25 temporary files are removed, and what follows the end is cut off", () =>
    Effect.gen(function*() {
      const files = filesOf(chainOf([{ start: 0, commits: 12 }]))
      files.set(segmentFile(1), concat(files.get(segmentFile(1)) ?? zeroId, new Uint8Array(300)))
      const disk = diskOf(files)
      disk.writeFile(`${directory}/.tmp-segment-000002.log-0badcafe`, new Uint8Array(36))
      yield* withVfs(disk, (vfs) => open(vfs))
      assert.deepStrictEqual(disk.unsynced, [])
      assert.strictEqual(disk.readFile(segmentFile(1))?.length, at(3))
      assert.deepStrictEqual(seqsOf((yield* whole(disk)).markers), upTo(12))
      // A torn end in front of a segment that other logs make necessary.
      disk.writeFile(segmentFile(1), concat(disk.readFile(segmentFile(1)) ?? zeroId, new Uint8Array(40)))
      yield* withVfs(disk, (vfs) => Effect.flatMap(open(vfs, { tip: 33 }), (files) => append(files, 1)))
      assert.deepStrictEqual((yield* whole(disk)).segments, [[0, 10], [1, 3], [4, 2]])
    }))

  it.effect("a genesis record that was never whole, and a segment that was never used, are made again", () =>
    Effect.gen(function*() {
      const torn = diskOf([[segmentFile(0), concat(headerOf(0, 0), new Uint8Array(50))]])
      yield* withVfs(torn, (vfs) => Effect.flatMap(open(vfs), (files) => append(files, 1)))
      assert.deepStrictEqual((yield* whole(torn)).segments, [[0, 2]])
      const unused = diskOf([...filesOf(chainOf([{ start: 0, commits: 9 }])), [
        segmentFile(1),
        concat(headerOf(1, 10), new Uint8Array(90))
      ]])
      yield* withVfs(unused, (vfs) => Effect.flatMap(open(vfs), (files) => append(files, 2)))
      assert.deepStrictEqual((yield* whole(unused)).segments, [[0, 10], [1, 2]])
      const overtaken = diskOf([...filesOf(chainOf([{ start: 0, commits: 9 }])), [segmentFile(1), headerOf(1, 10)]])
      yield* withVfs(overtaken, (vfs) => Effect.flatMap(open(vfs, { tip: 14 }), (files) => append(files, 2)))
      assert.deepStrictEqual((yield* whole(overtaken)).segments, [[0, 10], [2, 3]])
    }))

  it.effect("RC-26 with accepted damage the prefix is kept, and no sequence that had a slot is used again", () =>
    Effect.gen(function*() {
      const stream = chainOf([{ start: 0, commits: 34 }])
      const damaged: ReadonlyArray<readonly [id: number, change: (bytes: Uint8Array) => Uint8Array, kept: number]> = [
        [1, (bytes) => flipped(bytes, at(3)), 12],
        [1, (bytes) => flipped(bytes, at(0)), 9],
        [1, (bytes) => flipped(bytes, 0), 9],
        [3, (bytes) => flipped(bytes, at(2)), 31],
        [0, (bytes) => flipped(bytes, 20), -1]
      ]
      for (const [id, change, kept] of damaged) {
        const files = filesOf(stream)
        files.set(segmentFile(id), change(files.get(segmentFile(id)) ?? zeroId))
        const disk = diskOf(files)
        yield* withVfs(disk, (vfs) => Effect.flatMap(open(vfs), (files) => append(files, 3)))
        const { markers } = yield* whole(disk)
        assert.deepStrictEqual(markers.slice(0, kept + 1), stream.slice(0, kept + 1))
        assert.deepStrictEqual(seqsOf(markers.slice(kept + 1)), upTo(43, 40))
        assert.deepStrictEqual(disk.unsynced, [])
      }
    }))
})

describe("MarkerFiles: appending", () => {
  it.effect("records lie dense, over the end of a segment too, in as many files as it takes", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      const appended: Array<Marker> = []
      yield* withVfs(disk, (vfs) =>
        Effect.gen(function*() {
          const files = yield* open(vfs)
          for (const count of [1, 7, 1, 1, 25, 3, 1]) {
            appended.push(...yield* append(files, count))
            assert.deepStrictEqual(disk.unsynced, [])
          }
          assert.deepStrictEqual(files.segments().map(({ records }) => records), [10, 10, 10, 10])
          assert.deepStrictEqual(files.last(), appended.at(-1))
        }))
      const { markers, segments } = yield* whole(disk)
      assert.deepStrictEqual(segments, [[0, 10], [1, 10], [2, 10], [3, 10]])
      assert.deepStrictEqual(markers.slice(1), appended)
      assert.deepStrictEqual(seqsOf(markers), upTo(39))
      for (const id of [0, 1, 2, 3]) assert.strictEqual(disk.readFile(segmentFile(id))?.length, at(perSegment))
    }))

  it.effect("a batch of several buffers is cut where the segment ends", () =>
    Effect.gen(function*() {
      fc.assert(
        fc.property(
          fc.array(fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 4 }), { maxLength: 6 }),
          (batches) => {
            const disk = diskOf()
            const total = batches.flat().reduce((sum, count) => sum + count, 0)
            const markers = Effect.runSync(Effect.andThen(
              withVfs(disk, (vfs) =>
                Effect.gen(function*() {
                  const files = yield* open(vfs)
                  for (const counts of batches) {
                    const from = files.next()
                    const buffers = counts.map((count) => batchOf(files, count).bytes)
                    yield* files.writeAndSync(buffers, from)
                  }
                })),
              whole(disk)
            ))
            assert.deepStrictEqual(seqsOf(markers.markers), upTo(total))
          }
        ),
        { numRuns: 30 }
      )
    }))

  it.effect("the segment before is durable, and the new one whole, before it is used; also when nothing is synced", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      yield* withVfs(disk, (vfs) =>
        Effect.gen(function*() {
          const files = yield* open(vfs)
          const from = files.next()
          yield* files.write([batchOf(files, 12).bytes], from)
          assert.strictEqual(files.segments().length, 2)
        }))
      const lost = disk.afterCrash("lost")
      assert.strictEqual(lost.readFile(segmentFile(0))?.length, at(10))
      assert.strictEqual((yield* scan(lost)).last?.seq, 9n)
      assert.deepStrictEqual(lost.readFile(segmentFile(1)), headerOf(1, 10))
    }))

  it.effect("commits of one batch share a time, those of the next have a later one, and no time falls", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      const millis = 1_700_000_000_000
      yield* TestClock.setTime(millis)
      yield* withVfs(disk, (vfs) =>
        Effect.gen(function*() {
          const files = yield* open(vfs)
          yield* append(files, 3)
          yield* append(files, 2)
          yield* TestClock.setTime(millis + 5)
          yield* append(files, 1)
          // The clock is set back.
          yield* TestClock.setTime(millis - 60_000)
          yield* append(files, 2)
        }))
      yield* withVfs(disk, (vfs) => Effect.flatMap(open(vfs), (files) => append(files, 1)))
      const base = BigInt(millis) * 1_000_000n
      const { markers } = yield* whole(disk)
      assert.deepStrictEqual(
        markers.map(({ timeUnixNanos }) => timeUnixNanos - base),
        [0n, 1n, 1n, 1n, 2n, 2n, 5_000_000n, 5_000_001n, 5_000_001n, 5_000_002n]
      )
    }))

  it.effect("a proof is kept; a commit without a capsule, a wrong place, and half a marker are defects", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      yield* withVfs(disk, (vfs) =>
        Effect.gen(function*() {
          const files = yield* open(vfs)
          const bytes = new Uint8Array(recordBytes).fill(0xff)
          const view = new DataView(bytes.buffer)
          const marker = files.encodeNext(capsuleNumber(1), capsuleNumber(77), bytes, view, 0)
          yield* files.writeAndSync([bytes], seqOf(1))
          assert.deepStrictEqual(marker.proof, capsuleNumber(77))
          const defects: ReadonlyArray<Exit.Exit<unknown, unknown>> = [
            yield* Effect.exit(Effect.sync(() => files.encodeNext(zeroId, undefined, bytes, view, 0))),
            yield* Effect.exit(files.writeAndSync([bytes], seqOf(1))),
            yield* Effect.exit(files.writeAndSync([bytes.subarray(1)], seqOf(2)))
          ]
          for (const exit of defects) assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
          assert.strictEqual(files.next(), 2n)
          // Memory that was used before: without a proof there are zeros.
          files.encodeNext(capsuleNumber(2), undefined, bytes, view, 0)
          yield* files.write([bytes], seqOf(2))
          yield* files.sync
        }))
      assert.deepStrictEqual((yield* whole(disk)).markers.map(({ proof }) => proof), [
        zeroId,
        capsuleNumber(77),
        zeroId
      ])
    }))

  it.effect("GC-08 what was abandoned touches no file any more, in the middle of a rotation too", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      yield* withVfs(disk, (vfs) =>
        Effect.gen(function*() {
          const files = yield* open(vfs)
          yield* append(files, 9)
          const from = files.next()
          const { bytes } = batchOf(files, 3)
          // The clean-up of the segment before is held; meanwhile the log is poisoned.
          const held = disk.hold({ operation: "syncData", path: segmentFile(0) })
          const writing = yield* Effect.forkChild(files.writeAndSync([bytes], from), { startImmediately: true })
          yield* held.reached
          files.abandon()
          yield* held.release
          const exit = yield* Fiber.await(writing)
          assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
          assert.isTrue(Exit.isFailure(yield* Effect.exit(files.sync)))
        }))
      assert.deepStrictEqual(disk.files, [database, segmentFile(0)])
    }))

  it.effect("the public functions rotate at a million", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      // What a tip of 999,999 leaves begins at a million; the end of that segment is far. So near the end: a stream of
      // which all but the last records are a hole, which a start that verifies from there on never reads.
      const near = 1_000_000 - 3
      const sparse = new Uint8Array(headerBytes + (near + 1) * recordBytes)
      sparse.set(headerOf(0, 0))
      const fields = {
        seq: seqOf(near),
        timeUnixNanos: 5n,
        capsule: capsuleNumber(1),
        proof: zeroId,
        previous: capsuleNumber(2)
      }
      sparse.set(recordOf(fields), headerBytes + near * recordBytes)
      disk.writeFile(segmentFile(0), sparse)
      yield* withVfs(disk, (vfs) =>
        Effect.gen(function*() {
          const found = yield* scanMarkers(vfs, database, { from: seqOf(near + 1) })
          assert.deepStrictEqual([found.last?.seq, found.verifiedFrom, found.damage], [
            BigInt(near),
            BigInt(near),
            undefined
          ])
          const files = yield* openMarkers(vfs, { database, scan: found, tip: seqOf(near) })
          assert.strictEqual(files.next(), BigInt(near + 1))
          yield* append(files, 5)
          const reader = makeMarkerReader(vfs, { segments: files.segments, through: () => files.last().seq })
          assert.deepStrictEqual(
            seqsOf(yield* Stream.runCollect(reader.range(seqOf(near), seqOf(near + 99)))),
            upTo(near + 5, near)
          )
        }))
      assert.strictEqual(disk.readFile(segmentFile(0))?.length, headerBytes + 1_000_000 * recordBytes)
      assert.strictEqual(disk.readFile(segmentFile(1))?.length, headerBytes + 3 * recordBytes)
      assert.deepStrictEqual(disk.readFile(segmentFile(1))?.slice(0, headerBytes), headerOf(1, 1_000_000))
    }))
})

describe("MarkerReader", () => {
  const times = (seq: number): bigint => BigInt(100 * Math.floor(seq / 3))
  const parts = chainOf(
    [{ start: 0, commits: 13 }, { start: 30, commits: 0 }, { start: 40, commits: 5 }],
    (seq) => times(Number(seq))
  )
  const commits = parts.filter((marker) => !isGenesis(marker))

  const reading = <A, E>(
    disk: MemoryDisk,
    use: (reader: MarkerReader) => Effect.Effect<A, E>,
    through?: number
  ) =>
    withVfs(disk, (vfs) =>
      Effect.gen(function*() {
        const { last, segments } = yield* scan(disk)
        return yield* use(makeReader(vfs, {
          segments: () => segments,
          through: () => through === undefined ? last?.seq ?? seqOf(0) : seqOf(through),
          perSegment
        }))
      }))

  it.effect("reads the record of any sequence, and nothing where there is none", () =>
    reading(diskOf(filesOf(parts)), (reader) =>
      Effect.gen(function*() {
        for (let seq = 0; seq < 60; seq++) {
          assert.deepStrictEqual(
            yield* reader.read(seqOf(seq)),
            parts.find((marker) => marker.seq === BigInt(seq)),
            `${seq}`
          )
        }
      })))

  it.effect("reads any range, and checks it as a chain", () =>
    reading(diskOf(filesOf(parts)), (reader) =>
      Effect.gen(function*() {
        for (const from of [0, 1, 9, 10, 12, 13, 20, 30, 31, 44, 50]) {
          for (const to of [0, 9, 10, 13, 29, 30, 43, 99]) {
            const markers = yield* Stream.runCollect(reader.range(seqOf(from), seqOf(to)))
            assert.deepStrictEqual(
              seqsOf(markers),
              seqsOf(parts).filter((seq) => seq >= from && seq <= to),
              `${from} ... ${to}`
            )
          }
        }
        assert.deepStrictEqual(yield* reader.verifyChain, { markers: parts.length })
      })))

  it.effect("hands out nothing that is not durable yet", () =>
    reading(diskOf(filesOf(parts)), (reader) =>
      Effect.gen(function*() {
        assert.strictEqual((yield* reader.read(seqOf(11)))?.seq, 11n)
        assert.strictEqual(yield* reader.read(seqOf(12)), undefined)
        assert.deepStrictEqual(seqsOf(yield* Stream.runCollect(reader.range(seqOf(8), seqOf(99)))), upTo(11, 8))
        assert.deepStrictEqual(yield* reader.verifyChain, { markers: 12 })
        assert.strictEqual(yield* reader.sequenceAt(times(13)), 11n)
      }), 11))

  it.effect("finds the last commit at or before a time: over segments, with equal times, before the first, after the last", () =>
    reading(diskOf(filesOf(parts)), (reader) =>
      Effect.gen(function*() {
        for (let time = -1n; time <= 1700n; time += 25n) {
          const expected = commits.findLast((marker) => marker.timeUnixNanos <= time)?.seq
          assert.strictEqual(yield* reader.sequenceAt(time), expected, `at ${time}`)
        }
        assert.strictEqual(yield* reader.sequenceAt(2n ** 64n), 45n)
        assert.strictEqual(yield* reader.sequenceAt(-1n), undefined)
      })))

  it.effect("a stream of no commits has none at any time", () =>
    Effect.gen(function*() {
      yield* reading(diskOf(filesOf(chainOf([{ start: 0, commits: 0 }, { start: 10, commits: 0 }]))), (reader) =>
        Effect.gen(function*() {
          assert.strictEqual(yield* reader.sequenceAt(2n ** 64n), undefined)
          assert.deepStrictEqual(yield* reader.verifyChain, { markers: 2 })
        }))
      yield* reading(diskOf(), (reader) =>
        Effect.gen(function*() {
          assert.strictEqual(yield* reader.sequenceAt(1n), undefined)
          assert.strictEqual(yield* reader.read(seqOf(1)), undefined)
        }))
    }))

  it.effect("finds times as a plain search does, whatever the stream", () =>
    Effect.sync(() =>
      fc.assert(
        fc.property(
          fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 35 }),
          fc.array(fc.integer({ min: -1, max: 110 }), { minLength: 1, maxLength: 8 }),
          (steps, asked) => {
            let time = 0
            const timeline = [0, ...steps].map((step) => BigInt(time += step))
            const markers = chainOf([{ start: 0, commits: steps.length }], (seq) => timeline[Number(seq)] ?? 0n)
            Effect.runSync(reading(diskOf(filesOf(markers)), (reader) =>
              Effect.forEach(asked, (at) =>
                Effect.map(reader.sequenceAt(BigInt(at)), (found) => {
                  const expected = markers.findLast((marker) =>
                    !isGenesis(marker) && marker.timeUnixNanos <= BigInt(at)
                  )
                  assert.strictEqual(found, expected?.seq)
                }))))
          }
        ),
        { numRuns: 40 }
      )
    ))

  it.effect("looks at as many records for a time as halving the stream takes", () =>
    Effect.gen(function*() {
      const count = 1000
      const large = chainOf([{ start: 0, commits: count - 1 }], (seq) => BigInt(seq))
      const disk = diskOf(filesOf(large))
      const { last, segments } = yield* scan(disk)
      yield* withVfs(disk, (vfs) =>
        Effect.gen(function*() {
          let looks = 0
          const counting: typeof vfs = {
            ...vfs,
            open: (path, options) =>
              Effect.suspend(() => {
                looks++
                return vfs.open(path, options)
              })
          }
          const through = last?.seq ?? seqOf(0)
          const reader = makeReader(counting, { segments: () => segments, through: () => through, perSegment })
          for (const time of [0n, 1n, 2n, 499n, 500n, 998n, 999n, 5000n]) {
            looks = 0
            const expected = time === 0n ? undefined : time > 999n ? 999n : time
            assert.strictEqual(yield* reader.sequenceAt(time), expected, `at ${time}`)
            assert.isTrue(looks <= Math.ceil(Math.log2(count + 1)) + 1, `${looks} looks at ${time}`)
          }
        }))
    }))

  it.effect("says which record cannot be read, where, and goes on elsewhere", () =>
    Effect.gen(function*() {
      const files = filesOf(parts)
      const disk = diskOf(files)
      yield* reading(disk, (reader) =>
        Effect.gen(function*() {
          disk.writeFile(segmentFile(1), flipped(disk.readFile(segmentFile(1)) ?? zeroId, at(2) + 8))
          for (
            const failing of [
              reader.read(seqOf(12)),
              reader.verifyChain,
              Stream.runDrain(reader.range(seqOf(3), seqOf(44)))
            ]
          ) {
            const error = yield* Effect.flip(Effect.asVoid<unknown, unknown, never>(failing))
            assert.instanceOf(error, MarkerUnreadable)
            assert.deepStrictEqual(
              error instanceof MarkerUnreadable ? [error.path, error.issue.code, error.issue.offset] : [],
              [segmentFile(1), "RecordChecksumMismatch", at(2) + 80]
            )
          }
          assert.strictEqual((yield* reader.read(seqOf(11)))?.seq, 11n)
          // A record of another stream checks alone, not as a link of the chain.
          const foreign = filesOf(chainOf([{ start: 0, commits: 13 }], (seq) => times(Number(seq)) + 1n))
          disk.writeFile(segmentFile(1), foreign.get(segmentFile(1)) ?? zeroId)
          assert.strictEqual((yield* reader.read(seqOf(12)))?.seq, 12n)
          const broken = yield* Effect.flip(reader.verifyChain)
          assert.strictEqual(broken instanceof MarkerUnreadable ? broken.issue.code : "", "ChainBroken")
          // A file that has lost its end, or its header.
          disk.writeFile(segmentFile(1), (files.get(segmentFile(1)) ?? zeroId).slice(0, at(2) + 5))
          const short = yield* Effect.flip(reader.read(seqOf(12)))
          assert.strictEqual(short instanceof MarkerUnreadable ? short.issue.code : "", "RecordTooShort")
          disk.writeFile(segmentFile(1), flipped(files.get(segmentFile(1)) ?? zeroId, 1))
          const headless = yield* Effect.flip(reader.read(seqOf(11)))
          assert.strictEqual(headless instanceof MarkerUnreadable ? headless.issue.code : "", "BadMagic")
        }))
    }))

  it.effect("reads while the stream grows and rotates", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      yield* withVfs(disk, (vfs) =>
        Effect.gen(function*() {
          const files = yield* open(vfs)
          const reader = makeReader(vfs, { segments: files.segments, through: () => files.last().seq, perSegment })
          const seen: Array<number> = []
          for (let round = 0; round < 9; round++) {
            yield* append(files, 4)
            const from = seqOf(seen.length)
            seen.push(...seqsOf(yield* Stream.runCollect(reader.range(from, seqOf(10_000)))))
          }
          assert.deepStrictEqual(seen, upTo(36))
        }))
    }))
})
