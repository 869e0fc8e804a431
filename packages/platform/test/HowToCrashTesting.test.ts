import { assert, describe, it } from "@effect/vitest"
import { crc32c } from "@tidemark/platform/Checksum"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect, Fiber } from "effect"
import { readFileSync } from "node:fs"

const path = "/notes/journal"

/** A journal of notes; `append` succeeds when the note is durable. Record: length u32, CRC-32C u32, text. */
const openJournal = Effect.gen(function*() {
  const vfs = yield* Vfs
  yield* vfs.makeDirectory("/notes")
  const file = yield* vfs.open(path, { access: "readWrite", create: "ifMissing" })
  yield* vfs.syncDirectory("/notes")
  yield* vfs.syncDirectory("/")

  const bytes = new Uint8Array(yield* file.size)
  yield* file.read(bytes, 0)
  const view = new DataView(bytes.buffer)
  const notes: Array<string> = []
  let end = 0
  while (end + 8 <= bytes.length) {
    const text = bytes.subarray(end + 8, end + 8 + view.getUint32(end))
    if (text.length === 0 || view.getUint32(end + 4) !== crc32c(text)) break
    notes.push(new TextDecoder().decode(text))
    end += 8 + text.length
  }
  yield* file.truncate(end)
  yield* file.syncFull

  const append = (note: string) =>
    Effect.suspend(() => {
      const text = new TextEncoder().encode(note)
      const head = new DataView(new ArrayBuffer(8))
      head.setUint32(0, text.length)
      head.setUint32(4, crc32c(text))
      const position = end
      end += 8 + text.length
      return file.writeAndSyncData([new Uint8Array(head.buffer), text], position)
    })
  return { notes, append }
})

/** What one process does with the journal of a disk, from opening it to its end. */
const using = <A, E>(disk: MemoryDisk, body: (journal: Effect.Success<typeof openJournal>) => Effect.Effect<A, E>) =>
  Effect.scoped(Effect.flatMap(openJournal, body)).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))

const notesOn = (disk: MemoryDisk) => using(disk, ({ notes }) => Effect.succeed(notes))

it.effect("every acknowledged note survives every crash", () =>
  Effect.gen(function*() {
    const disk = MemoryDisk.make()
    const trace = disk.record<string>()
    const written = ["a", "b", "c", "d", "e", "f"].map((name) => name.repeat(600))
    yield* using(disk, ({ append }) =>
      Effect.forEach(
        written,
        (note) => Effect.andThen(append(note), Effect.sync(() => trace.mark(note))),
        { concurrency: 2 }
      ))

    let states = 0
    for (const state of trace.crashStates({ seed: 1, perStep: 8 })) {
      const notes = yield* notesOn(state.disk)
      assert.deepStrictEqual(notes, written.slice(0, notes.length), state.label)
      assert.isAtLeast(notes.length, state.marks.length, state.label)
      assert.deepStrictEqual(yield* notesOn(state.disk), notes, state.label)

      const more = "z".repeat(600)
      yield* using(state.disk, ({ append }) => append(more))
      state.disk.crash("lost")
      assert.deepStrictEqual(yield* notesOn(state.disk), [...notes, more], state.label)
      states++
    }
    assert.isAbove(states, 150)
  }))

it.effect("a note whose sync failed is not acknowledged, and the disk decides about it", () =>
  Effect.gen(function*() {
    const disk = MemoryDisk.make()
    disk.inject({ operation: "syncData", path, skip: 1, fault: { kind: "lostSync" } })
    yield* using(disk, ({ append }) =>
      Effect.gen(function*() {
        yield* append("one")
        const error = yield* Effect.flip(append("two"))
        assert.strictEqual(error.code, "EIO")
      }))
    disk.crash("kept")
    assert.deepStrictEqual(yield* notesOn(disk), ["one"])
  }))

it.effect("a note is not acknowledged before it is durable", () =>
  Effect.gen(function*() {
    const disk = MemoryDisk.make()
    yield* using(disk, ({ append }) =>
      Effect.gen(function*() {
        const sync = disk.hold({ operation: "syncData", path })
        const appending = yield* Effect.forkChild(append("one"))
        yield* sync.reached
        assert.isUndefined(appending.pollUnsafe())
        assert.deepStrictEqual(yield* notesOn(disk.afterCrash("lost")), [])
        yield* sync.release
        yield* Fiber.join(appending)
        assert.deepStrictEqual(yield* notesOn(disk.afterCrash("lost")), ["one"])
      }))
  }))

describe("the how-to", () => {
  it("shows this code", () => {
    const text = readFileSync(new URL("../../../docs/how-to/crash-testing.md", import.meta.url), "utf8")
    const code = readFileSync(new URL(import.meta.url), "utf8")
    const blocks = Array.from(text.matchAll(/^```ts[^\n]*\n(.*?)^```$/gms), (match) => match[1] ?? "")
    assert.isAbove(blocks.length, 3)
    for (const block of blocks) assert.include(code, block)
  })
})
