import { assert, describe, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Effect } from "effect"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { verifyNative } from "../src/native/verifyNative.ts"
import { recovered } from "./support/databaseCommands.ts"
import { capsuleAt, type MadeNative, makeNative, offsetOfMarker } from "./support/nativeDatabases.ts"
import { temporaryDirectory } from "./support/program.ts"

/** The database and everything that is Tidemark's beside it, by path. */
const filesOf = (directory: string, { path }: MadeNative): ReadonlyMap<string, Uint8Array> =>
  new Map(
    readdirSync(directory, { recursive: true, withFileTypes: true })
      .map((entry) => ({ entry, file: join(entry.parentPath, entry.name) }))
      .filter(({ entry, file }) => entry.isFile() && (file === path || file.startsWith(`${path}.fsqlite/`)))
      .map(({ file }) => [file, readFileSync(file)])
  )

/** Whether `verify` finds a problem, or a refusal, when one file holds something else. */
const isFound = (files: ReadonlyMap<string, Uint8Array>, { path }: MadeNative, file: string, bytes: Uint8Array) => {
  const disk = MemoryDisk.make({ async: false })
  for (const [name, contents] of files) disk.writeFile(name, name === file ? bytes : contents)
  return verifyNative(path).pipe(
    Effect.map(({ exitCode, json }) => {
      assert.strictEqual(exitCode === 0, json["ok"])
      return exitCode === 1
    }),
    Effect.provide(MemoryVfs.layerDisk(disk), { local: true })
  )
}

/** Each bit in turn of the bytes that are looked at; a file that is cut off there; the lengths that leave it whole. */
const assertEveryChangeIsFound = Effect.fnUntraced(function*(
  files: ReadonlyMap<string, Uint8Array>,
  database: MadeNative,
  file: string,
  options: { readonly step: number; readonly wholeAt?: ReadonlyArray<number> }
) {
  const bytes = files.get(file)
  assert(bytes !== undefined)
  assert.isFalse(yield* isFound(files, database, file, bytes))
  for (let at = 0; at < bytes.length; at += options.step) {
    const flipped = Uint8Array.from(bytes)
    flipped[at] = (flipped[at] ?? 0) ^ (1 << (at % 8))
    assert.isTrue(yield* isFound(files, database, file, flipped), `a bit of byte ${at} is flipped`)
    const isWhole = options.wholeAt?.includes(at) === true
    assert.strictEqual(yield* isFound(files, database, file, bytes.subarray(0, at)), !isWhole, `cut off at ${at}`)
  }
})

describe("verify of a native log", () => {
  it.effect("RC-14, RC-15, RC-26 finds every bit that is flipped, and every file that is cut off", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const database = yield* makeNative(directory, "a", { commits: 3, pageSize: 512 })
      const files = filesOf(directory, database)
      yield* assertEveryChangeIsFound(files, database, database.markers, { step: 1 })
      yield* assertEveryChangeIsFound(files, database, capsuleAt(database, 1), { step: 1 })
    }))

  it.effect("RC-26 finds it in the history, too, all of which is in the database file", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const database = yield* makeNative(directory, "a", { commits: 3, pageSize: 512 })
      yield* recovered(database.path)
      // Markers that the checkpoint has made history are missed by nobody when they are gone as a whole.
      yield* assertEveryChangeIsFound(filesOf(directory, database), database, database.markers, {
        step: 1,
        wholeAt: [0, 1, 2, 3].map(offsetOfMarker)
      })
    }))
})
