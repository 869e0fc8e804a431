/**
 * Small files that are replaced as a whole: a reader, and a start after a crash, finds the old contents or the new
 * ones, never a mixture and never nothing.
 *
 * **Details**
 *
 * 1. The new contents are written to a temporary file in the same directory and synced before that file gets the name.
 * 2. The directory is synced before the replacement counts as done.
 * 3. A temporary file that a crash leaves behind is recognised by its name ({@link isTemporaryName}) and swept by the
 *    next holder of the coordinator's lock (RC-25).
 *
 * @since 0.1.0
 */
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type * as Scope from "effect/Scope"

/** How often another random name is tried when a temporary file has the name already: one collision is a crash's leftover. */
const maxNameAttempts = 8

/** Where a path is split: the directory (`.` when there is none) and the name in it. */
const splitPath = (path: string) => {
  const slash = path.lastIndexOf("/")
  return slash < 0
    ? { directory: ".", name: path }
    : { directory: slash === 0 ? "/" : path.slice(0, slash), name: path.slice(slash + 1) }
}

/**
 * The directory of a path and the name in it.
 *
 * @category paths
 * @since 0.1.0
 */
export const directoryOf = (path: string): string => splitPath(path).directory

/**
 * The last part of a path.
 *
 * @category paths
 * @since 0.1.0
 */
export const nameOf = (path: string): string => splitPath(path).name

const temporaryPrefix = ".tmp-"
const suffixDigits = 8

/**
 * Whether `candidate`, a name in the same directory, is a temporary file that a replacement of the file `name` has
 * left behind.
 *
 * @category predicates
 * @since 0.1.0
 */
export const isTemporaryName = (candidate: string, name: string): boolean => {
  const prefix = `${temporaryPrefix}${name}-`
  return candidate.startsWith(prefix) &&
    candidate.length === prefix.length + suffixDigits &&
    /^[0-9a-f]+$/.test(candidate.slice(prefix.length))
}

/**
 * Whether a name in a directory that belongs to Tidemark alone is a temporary one (RC-25).
 *
 * @category predicates
 * @since 0.1.0
 */
export const isAnyTemporaryName = (candidate: string): boolean => candidate.startsWith(temporaryPrefix)

/**
 * Replaces the contents of the file at `path`, or makes it, atomically and durably.
 *
 * **Details**
 *
 * When it succeeds the new contents survive a power loss. When it fails the old contents are still there, or, if only
 * the last sync of the directory failed, the new ones; the temporary file is removed. Two replacements of one file at
 * the same time do not mix, and the last rename wins. The directory must exist.
 *
 * @category writing
 * @since 0.1.0
 */
export const replaceFile = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  path: string,
  bytes: Uint8Array,
  options?: { readonly mode?: number | undefined }
): Effect.fn.Return<void, VfsError> {
  const { directory, name } = splitPath(path)
  const temporary = yield* writeTemporary(vfs, directory, name, bytes, options?.mode)
  yield* vfs.rename(temporary, path).pipe(removeOnError(vfs, temporary))
  yield* vfs.syncDirectory(directory)
}, Effect.uninterruptible)

/** What went wrong first is what the caller hears of, whether or not the removal works. */
const removeOnError = (vfs: Vfs["Service"], temporary: string) => <A>(effect: Effect.Effect<A, VfsError>) =>
  Effect.onError(effect, () => Effect.ignore(vfs.remove(temporary)))

const writeTemporary = Effect.fnUntraced(
  function*(
    vfs: Vfs["Service"],
    directory: string,
    name: string,
    bytes: Uint8Array,
    mode: number | undefined
  ): Effect.fn.Return<string, VfsError, Scope.Scope> {
    const file = yield* Random.nextIntBetween(0, 2 ** 32, { halfOpen: true }).pipe(
      Effect.map((random) => random.toString(16).padStart(suffixDigits, "0")),
      Effect.flatMap((suffix) =>
        vfs.open(`${directory}/${temporaryPrefix}${name}-${suffix}`, { access: "readWrite", create: "exclusive", mode })
      ),
      Effect.retry({ times: maxNameAttempts, while: (error) => error.code === "EEXIST" })
    )
    yield* Effect.gen(function*() {
      if (bytes.length > 0) yield* file.write([bytes], 0)
      yield* file.syncFull
    }).pipe(removeOnError(vfs, file.path))
    return file.path
  },
  Effect.scoped
)

/**
 * Reads a small file: its bytes, at most `maxBytes` of them, or `undefined` when there is no such file.
 *
 * **Details**
 *
 * Who has to notice that a file is too long asks for one byte more than it may have.
 *
 * @category reading
 * @since 0.1.0
 */
export const readSmallFile = (
  vfs: Vfs["Service"],
  path: string,
  maxBytes: number
): Effect.Effect<Uint8Array | undefined, VfsError> =>
  Effect.gen(function*() {
    const file = yield* vfs.open(path, { access: "read" })
    const buffer = new Uint8Array(maxBytes)
    const length = yield* file.read(buffer, 0)
    return buffer.subarray(0, length)
  }).pipe(
    Effect.scoped,
    Effect.catchIf(
      (error) => error.operation === "open" && error.code === "ENOENT",
      () => Effect.succeed(undefined)
    )
  )
