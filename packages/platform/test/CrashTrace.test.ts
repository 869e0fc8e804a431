import { assert, describe, it } from "@effect/vitest"
import { type CrashStatesOptions, MemoryDisk, type Trace } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs, type VfsFile } from "@tidemark/platform/Vfs"
import { Effect, type Scope } from "effect"
import fc from "fast-check"

const filled = (length: number, value: number) => new Uint8Array(length).fill(value)
const readWrite = { access: "readWrite", create: "ifMissing" } as const

/** Runs as one process on the disk. */
const on = <A, E>(disk: MemoryDisk, body: (vfs: Vfs["Service"]) => Effect.Effect<A, E, Scope.Scope>) =>
  Effect.scoped(Effect.flatMap(Vfs, body)).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))

/** Everything that can be read on a disk, and everything of it that is not durable. */
const pictureOf = (disk: MemoryDisk) => ({
  files: disk.files.map((path) => `${path}: ${disk.readFile(path)?.join()}`),
  unsynced: disk.unsynced
})

const picturesOf = <Mark>(trace: Trace<Mark>, options?: CrashStatesOptions) =>
  Array.from(trace.crashStates(options), (state) => JSON.stringify([state.label, state.marks, pictureOf(state.disk)]))

describe("a recording", () => {
  const action = fc.record({
    kind: fc.constantFrom(
      "write" as const,
      "write" as const,
      "truncate" as const,
      "syncData" as const,
      "syncFull" as const,
      "lostSync" as const,
      "open" as const,
      "remove" as const,
      "rename" as const,
      "makeDirectory" as const,
      "syncDirectory" as const
    ),
    file: fc.integer({ min: 0, max: 3 }),
    other: fc.integer({ min: 0, max: 3 }),
    position: fc.integer({ min: 0, max: 1500 }),
    length: fc.integer({ min: 1, max: 1500 })
  })
  const pathOf = (index: number) => ["/d/a", "/d/b", "/e/a", "/e/b"][index] ?? "/a"
  type Action = typeof action extends fc.Arbitrary<infer A> ? A : never

  it("of anything, made again, gives the same disk and the same crashes after every step", () => {
    const check = (before: ReadonlyArray<Action>, recorded: ReadonlyArray<Action>, seed: number) => {
      const disk = MemoryDisk.make({ async: false })
      return on(disk, (vfs) =>
        Effect.gen(function*() {
          const handles = new Map<number, VfsFile>()
          let value = 0
          const run = (action: Action) =>
            Effect.gen(function*() {
              const { kind, length, other, position } = action
              const path = pathOf(action.file)
              const file = handles.get(action.file)
              if (kind === "open") handles.set(action.file, yield* vfs.open(path, readWrite))
              else if (kind === "remove") yield* vfs.remove(path)
              else if (kind === "rename") yield* vfs.rename(path, pathOf(other))
              else if (kind === "makeDirectory") yield* vfs.makeDirectory(`/e/${other}/${position % 3}`)
              else if (kind === "syncDirectory") yield* vfs.syncDirectory(["/", "/d", "/e", "/e/1"][other] ?? "/")
              else if (file === undefined) yield* Effect.void
              else if (kind === "write") yield* file.write([filled(length, ++value)], position)
              else if (kind === "truncate") yield* file.truncate(position)
              else if (kind === "lostSync") {
                disk.inject({ operation: "syncFull", fault: { kind: "lostSync" } })
                yield* file.syncFull
              } else yield* file[kind]
            }).pipe(Effect.ignore)
          yield* vfs.makeDirectory("/d")
          yield* vfs.makeDirectory("/e")
          for (const action of before) yield* run(action)
          const trace = disk.record()
          const expected = [[pictureOf(disk), pictureOf(disk.afterCrash(seed))]]
          for (const action of recorded) {
            const count = trace.steps.length
            yield* run(action)
            if (trace.steps.length === count + 1) {
              expected[count + 1] = [pictureOf(disk), pictureOf(disk.afterCrash(seed))]
            }
          }
          expected.forEach((pictures, step) =>
            assert.deepStrictEqual(
              [pictureOf(trace.diskAfter(step)), pictureOf(trace.crashAfter(step, seed).disk)],
              pictures
            )
          )
        })).pipe(Effect.runPromise)
    }
    const actions = fc.array(action, { maxLength: 25 })
    return fc.assert(fc.asyncProperty(actions, actions, fc.integer(), check), { numRuns: 150 })
  })

  it.effect("ends when it is stopped or the disk crashes, and only then another one may begin", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make({ async: false })
      const make = (path: string) => on(disk, (vfs) => vfs.open(path, readWrite))
      const first = disk.record()
      assert.throws(() => disk.record(), "one recording at a time")
      yield* make("/a")
      first.stop()
      yield* make("/b")
      const second = disk.record()
      first.stop()
      yield* make("/c")
      disk.crash("kept")
      yield* make("/d")
      const third = disk.record()
      second.stop()
      yield* make("/e")
      const paths = (trace: Trace<never>) => trace.steps.map(({ path }) => path).join()
      assert.deepStrictEqual([first, second, third].map(paths), ["/a", "/c", "/e"])
      assert.deepStrictEqual(third.diskAfter(1).files, ["/a", "/b", "/c", "/d", "/e"])
      assert.throws(() => third.crashAfter(2, "lost"), "0 ... 1 steps")
    }))
})

describe("crash states", () => {
  /** Two writes of one block each over durable bytes, a sync of the directory, a sync of the file. */
  const recorded = Effect.gen(function*() {
    const disk = MemoryDisk.make()
    disk.writeFile("/a", filled(1024, 0))
    const trace = disk.record<string>()
    trace.mark("begun")
    yield* on(disk, (vfs) =>
      Effect.gen(function*() {
        const file = yield* vfs.open("/a", readWrite)
        yield* file.write([filled(10, 1)], 0)
        yield* file.write([filled(10, 2)], 512)
        yield* vfs.open("/b", readWrite)
        yield* file.syncData
        trace.mark("acknowledged")
        yield* vfs.syncDirectory("/")
        trace.mark("named")
      }))
    return trace
  })

  it.effect("are all combinations where there are few, each once", () =>
    Effect.gen(function*() {
      const trace = yield* recorded
      const found = Array.from(trace.crashStates({ perStep: 0 }), ({ disk, step }) => {
        const bytes = disk.readFile("/a")
        return `${step} ${bytes?.[0]}${bytes?.[512]} ${disk.files.length}`
      })
      assert.deepStrictEqual(found.toSorted(), [
        "0 00 1",
        "1 00 1",
        "1 10 1",
        "2 00 1",
        "2 02 1",
        "2 10 1",
        "2 12 1",
        "3 00 1",
        "3 00 2",
        "3 02 1",
        "3 02 2",
        "3 10 1",
        "3 10 2",
        "3 12 1",
        "3 12 2",
        "4 12 1",
        "4 12 2",
        "5 12 2"
      ])
    }))

  it.effect("are the extremes and what seeds give where there are many", () =>
    Effect.gen(function*() {
      const trace = yield* recorded
      const choices = Array.from(
        trace.crashStates({ perStep: 3, exhaustiveUpTo: 4, steps: (step) => step > 1 }),
        (state) => `${state.step} ${state.choice.replace(/seed \d+/, "seed")}`
      )
      assert.deepStrictEqual(choices, [
        ..."0123".split("").map((number) => `2 combination ${number}`),
        "2 seed",
        "2 seed",
        "2 seed",
        "3 lost",
        "3 kept",
        "3 seed",
        "3 seed",
        "3 seed",
        "4 combination 0",
        "4 combination 1",
        "4 seed",
        "4 seed",
        "4 seed",
        "5 lost"
      ])
    }))

  it.effect("are combinations of blocks, or of whole writes where there are too many blocks", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      disk.writeFile("/a", filled(1536, 0))
      const trace = disk.record()
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const file = yield* vfs.open("/a", readWrite)
          yield* file.write([filled(1536, 1)], 0)
          yield* file.write([filled(1536, 2)], 0)
        }))
      const statesAfter = (wanted: number) =>
        Array.from(
          trace.crashStates({ perStep: 0, exhaustiveUpTo: 8, steps: (step) => step === wanted }),
          ({ disk }) => [0, 512, 1024].map((position) => disk.readFile("/a")?.[position]).join("")
        )
      assert.deepStrictEqual(statesAfter(1).toSorted(), ["000", "001", "010", "011", "100", "101", "110", "111"])
      assert.deepStrictEqual(statesAfter(2).toSorted(), ["000", "111", "222", "222"])
    }))

  it.effect("know of a directory that was synced before the recording began", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make({ async: false })
      disk.writeFile("/d/a", filled(1, 1))
      disk.writeFile("/e/b", filled(1, 1))
      yield* on(disk, (vfs) => Effect.andThen(vfs.rename("/d/a", "/e/a"), vfs.syncDirectory("/d")))
      const trace = disk.record()
      yield* on(disk, (vfs) => vfs.syncDirectory("/e"))
      assert.deepStrictEqual(trace.crashAfter(0, "lost").disk.files, ["/d/a", "/e/b"])
      assert.deepStrictEqual(trace.crashAfter(1, "lost").disk.files, ["/e/a", "/e/b"])
    }))

  it.effect("know the marks that were put before the next step, the step, and how to come back", () =>
    Effect.gen(function*() {
      const trace = yield* recorded
      const marks = Array.from({ length: 6 }, (_, step) => trace.crashAfter(step, "lost").marks.join())
      assert.deepStrictEqual(marks, [
        "begun",
        "begun",
        "begun",
        "begun",
        "begun,acknowledged",
        "begun,acknowledged,named"
      ])
      const labels = new Set<string>()
      for (const state of trace.crashStates()) {
        assert.strictEqual(state.last, trace.steps[state.step - 1])
        labels.add(state.label)
        const seed = /^seed (\d+)$/.exec(state.choice)?.[1]
        if (seed === undefined) continue
        const again = trace.crashAfter(state.step, Number(seed))
        assert.strictEqual(again.label, state.label)
        assert.deepStrictEqual(pictureOf(again.disk), pictureOf(state.disk))
      }
      assert.isTrue(labels.has("after step 3 (create /b), combination 0"))
      assert.isTrue(labels.has("before the first step, lost"))
    }))

  it.effect("are the same each time, and others with another seed", () =>
    Effect.gen(function*() {
      const trace = yield* recorded
      assert.deepStrictEqual(picturesOf(trace), picturesOf(trace))
      assert.notDeepEqual(picturesOf(trace, { seed: 2 }), picturesOf(trace))
      assert.deepStrictEqual(picturesOf(yield* recorded), picturesOf(trace))
    }))

  it.effect("do not disturb each other or the recorded disk when they are used", () =>
    Effect.gen(function*() {
      const trace = yield* recorded
      const before = picturesOf(trace)
      const states = Array.from(trace.crashStates())
      for (const { disk } of states) {
        yield* on(disk, (vfs) =>
          Effect.gen(function*() {
            const file = yield* vfs.open("/a", readWrite)
            yield* file.writeAndSyncData([filled(2000, 9)], 0)
            yield* vfs.rename("/a", "/z")
          }))
      }
      for (const { disk } of states) assert.strictEqual(disk.files.at(-1), "/z")
      assert.deepStrictEqual(picturesOf(trace), before)
    }))
})
