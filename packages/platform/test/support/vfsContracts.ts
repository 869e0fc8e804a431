/**
 * What the contracts of `Vfs` have in common.
 */
import { assert } from "@effect/vitest"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import { VfsError, type VfsOperation } from "@tidemark/platform/VfsError"
import { Effect, type Scope } from "effect"

/** A test of a layer, in an empty directory. */
export type TestOfVfs = (
  title: string,
  body: (vfs: Vfs["Service"], directory: string) => Effect.Effect<void, VfsError, Scope.Scope>
) => void

export const bytes = (...values: ReadonlyArray<number>) => Uint8Array.from(values)

export const contents = (file: VfsFile) =>
  Effect.gen(function*() {
    // Not zeros, so that a gap has to be filled.
    const buffer = new Uint8Array(yield* file.size).fill(0xee)
    assert.strictEqual(yield* file.read(buffer, 0), buffer.length)
    return buffer
  })

/** Fails unless the effect fails with a `VfsError` that names the operation, the path and one of the codes. */
export const refuses = <A, R>(
  call: Effect.Effect<A, VfsError, R>,
  operation: VfsOperation,
  path: string,
  ...codes: ReadonlyArray<string>
) =>
  Effect.gen(function*() {
    const error = yield* Effect.match(call, {
      onFailure: (error) => error,
      onSuccess: () => assert.fail(`${operation} ${path} succeeds`)
    })
    assert.instanceOf(error, VfsError)
    assert.deepStrictEqual({ operation: error.operation, path: error.path }, { operation, path })
    assert.include(codes, error.code)
  })

/** A file with these bytes. */
export const create = (vfs: Vfs["Service"], path: string, ...values: ReadonlyArray<number>) =>
  Effect.gen(function*() {
    const file = yield* vfs.open(path, { access: "readWrite", create: "exclusive" })
    yield* file.write([bytes(...values)], 0)
    return file
  })
