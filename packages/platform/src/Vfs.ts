/**
 * The file system as a storage engine needs it: positional reads, gather writes that are all or an error, the syncs,
 * and nothing else.
 *
 * **Details**
 *
 * Effect's own `FileSystem` has no positional write, no `fdatasync` and no directory sync, which is why this service
 * exists. It is narrow on purpose: everything that Tidemark puts on a disk goes through these calls, so a layer that
 * implements them (`NodeVfs`, `MemoryVfs`, or yours) is the whole platform. `vfsContract` in this package's tests is
 * the suite that such a layer has to pass.
 *
 * What each call promises about durability stands in its documentation. The four things that persist independently of
 * each other are: the contents of a file (`syncData`), its size (`syncData` when it is needed to read the contents
 * back), its name (`syncDirectory` of its directory), and its removal (likewise).
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { VfsError } from "./VfsError.ts"

/**
 * How a file is opened.
 *
 * @category models
 * @since 0.1.0
 */
export interface VfsOpenOptions {
  /** `"read"` refuses every write; `"readWrite"` allows both. */
  readonly access: "read" | "readWrite"
  /**
   * `"never"` (default): the file must exist (`ENOENT`). `"ifMissing"`: it is created empty when it does not exist.
   * `"exclusive"`: it must not exist (`EEXIST`).
   */
  readonly create?: "never" | "ifMissing" | "exclusive" | undefined
  /** Permission bits of a file that is created. Default 0o644. */
  readonly mode?: number | undefined
}

/**
 * How `VfsFile.writeAndSyncData` may go about it. Default: neither.
 *
 * @category models
 * @since 0.1.0
 */
export interface WriteAndSyncOptions {
  readonly background?: boolean | undefined
  readonly tail?: boolean | undefined
}

/**
 * An open file. It is closed when the scope it was opened in closes. Calls that are in flight when a fiber is
 * interrupted run to their end: no descriptor is closed under the kernel.
 *
 * @category models
 * @since 0.1.0
 */
export interface VfsFile {
  readonly path: string

  /**
   * Reads into `buffer` from byte `position` on and answers how many bytes there were. Fewer than `buffer.length` only
   * at the end of the file; 0 at or behind it.
   *
   * In memory of `TailMemory` what stands around the buffer, in its first and last 4,096 bytes, may be overwritten.
   */
  readonly read: (buffer: Uint8Array, position: number) => Effect.Effect<number, VfsError>

  /**
   * The same, now, on the calling thread. Throws the `VfsError` that {@link VfsFile.read} would fail with.
   */
  readonly readSync: (buffer: Uint8Array, position: number) => number

  /**
   * Writes the buffers one after another from byte `position` on: all of their bytes, or an error. After an error any
   * part of them may have been written. Promises nothing about durability: a crash may keep any subset of what was
   * written since the last sync.
   *
   * The buffers must not change until the call is done.
   */
  readonly write: (buffers: ReadonlyArray<Uint8Array>, position: number) => Effect.Effect<void, VfsError>

  /**
   * {@link VfsFile.write} and then {@link VfsFile.syncData}, in as few hops between threads as the platform can.
   * Before it succeeds nothing is promised; when it fails the file must be taken as damaged and closed.
   *
   * With `background` the calling thread is left alone meanwhile: for a caller that has other work to do. Such calls on
   * one file may be made while others of them are under way. They are done one after the other, in the order in which
   * they were made; when one fails, those behind it fail too, having written nothing (`ECANCELED`).
   *
   * With `tail` the platform may write past its page cache, where it can. The caller says by it that this is the end of
   * all that means anything in the file: bytes behind it, up to the next multiple of 4,096, may become zeros, and the
   * file may become longer by so many. Nothing else is written to the file meanwhile; and between this call and the next
   * one nothing is written by another handle of the file, in this process or another one: what stands in front of the
   * next bytes may be remembered and written again.
   */
  readonly writeAndSyncData: (
    buffers: ReadonlyArray<Uint8Array>,
    position: number,
    options?: WriteAndSyncOptions
  ) => Effect.Effect<void, VfsError>

  /**
   * Whether a {@link VfsFile.writeAndSyncData} with `background` and `tail` that has to wait for one before it is begun
   * without the calling thread. Says how much is gained by making it early, nothing about durability; and it may change.
   */
  readonly hasWriteQueue: () => boolean

  /**
   * Makes everything that was written to this file before the call survive a power loss: contents, and the size as far
   * as reading the contents back needs it (`fdatasync`). Promises nothing about the file's name.
   *
   * A failure is final for this file: a second call could succeed without the lost writes.
   */
  readonly syncData: Effect.Effect<void, VfsError>

  /**
   * {@link VfsFile.syncData} and all other metadata of the file (`fsync`). Promises nothing about the file's name.
   */
  readonly syncFull: Effect.Effect<void, VfsError>

  /**
   * Cuts the file off at `size` bytes, or extends it with zeros. Durable after the next {@link VfsFile.syncFull}.
   */
  readonly truncate: (size: number) => Effect.Effect<void, VfsError>

  /** The size in bytes. */
  readonly size: Effect.Effect<number, VfsError>
}

/**
 * What stands behind a path: changes when the file is replaced by another one of the same name.
 *
 * @category models
 * @since 0.1.0
 */
export interface VfsIdentity {
  readonly kind: "file" | "directory" | "other"
  readonly size: number
  /** Device and inode, or whatever tells two files apart. */
  readonly inode: string
}

/**
 * The file system. Paths are plain strings.
 *
 * @category services
 * @since 0.1.0
 */
export class Vfs extends Context.Service<Vfs, {
  /**
   * Opens a file. A file that this call created has a name that may not survive a power loss until
   * `syncDirectory` of its directory.
   */
  readonly open: (path: string, options: VfsOpenOptions) => Effect.Effect<VfsFile, VfsError, Scope.Scope>

  /**
   * Opens a file, reads into `buffer` from byte `position` on as {@link VfsFile.readSync} does, and closes it, now, on the
   * calling thread: for files that are too many to stay open. Throws a `VfsError`.
   */
  readonly readSync: (path: string, buffer: Uint8Array, position: number) => number

  /** Removes a file. Durable after `syncDirectory` of its directory. `ENOENT` when there is none. */
  readonly remove: (path: string) => Effect.Effect<void, VfsError>

  /**
   * Gives a file another name, atomically replacing what had that name. Durable after `syncDirectory`; before that a
   * power loss leaves either the old or the new name. The contents are not made durable by it.
   */
  readonly rename: (from: string, to: string) => Effect.Effect<void, VfsError>

  /** The names in a directory, sorted, without `.` and `..`. `ENOENT` when it does not exist. */
  readonly list: (directory: string) => Effect.Effect<ReadonlyArray<string>, VfsError>

  /** Makes a directory and its missing parents; fine when it exists. Durable after `syncDirectory` of its parent. */
  readonly makeDirectory: (
    path: string,
    options?: { readonly mode?: number | undefined }
  ) => Effect.Effect<void, VfsError>

  /** Makes the names in a directory survive a power loss: creations, renames, removals. */
  readonly syncDirectory: (directory: string) => Effect.Effect<void, VfsError>

  /** What stands behind a path, or `undefined` when nothing does. */
  readonly identify: (path: string) => Effect.Effect<VfsIdentity | undefined, VfsError>
}>()("@tidemark/platform/Vfs") {}
