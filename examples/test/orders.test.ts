import { assert, describe, it } from "@effect/vitest"
import * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import { defaultPageSize } from "@tidemark/core/Scalars"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { SharedMemory } from "@tidemark/platform/SharedMemory"
import { Effect, Layer } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { allRows, committed, engine, header, insert } from "../orders.ts"

const directory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "tidemark-orders-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true }))
)

describe("orders", () => {
  it.live("RID-04 RID-12 SHM-07 no id comes twice over a restart, and a second mapping sees every commit", () =>
    Effect.gen(function*() {
      const database = join(yield* directory, "orders.db")
      const machine = Layer.merge(NodeVfs.layer, SharedMemory.layerFile)
      const asAnother = committed.pipe(
        Effect.provide(Layer.provide(header(database), machine), { local: true })
      )
      const run = Effect.gen(function*() {
        const before = yield* asAnother
        const rows = yield* insert(8)
        return { rows, grown: (yield* asAnother) - before }
      }).pipe(
        Effect.provide(Layer.provideMerge(engine(database), Layer.provideMerge(header(database), machine)), {
          local: true
        })
      )
      const first = yield* run
      assert.strictEqual(new Set(first.rows).size, 32)
      assert.strictEqual(first.grown, 32n)
      const second = yield* run
      assert.strictEqual(new Set(second.rows).size, 64)
      assert.isTrue(first.rows.every((id) => second.rows.includes(id)))
      assert.strictEqual(second.grown, 32n)
    }))

  it.effect("RID-04 the same program runs in memory, with a header that only it sees", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* allRows, [])
      const rows = yield* insert(3)
      assert.strictEqual(new Set(rows).size, 12)
      assert.strictEqual(yield* committed, 12n)
    }).pipe(
      Effect.provide(
        Layer.provideMerge(
          engine("/orders.db"),
          Layer.merge(MemoryVfs.layer, SharedHeader.layerMemory({ pageSize: defaultPageSize }))
        )
      )
    ))
})
