/**
 * What a power loss leaves: builds the disk that results when each unsettled change is kept or dropped.
 *
 * What can happen to a file since its last sync, and to nothing else:
 * 1. Of each unsynced write any subset of its blocks (512 bytes or 4 KiB) is there; a block that is not there has the
 *    bytes that were under it, or zeros.
 * 2. Unsynced writes may land in any order among each other: an older one may win over a newer one where they overlap.
 * 3. The last block of the last write may be torn at any byte of that write; bytes that it did not write stay.
 * 4. Changes of the size (extensions, cuts) persist in order up to some point, independently of the bytes: an extension
 *    without its bytes reads as zeros, bytes behind the size that was kept are gone.
 * 5. Changes of names are kept or dropped one by one, those of the same name in order.
 */
import type { NameChange, UnsyncedBlock } from "../MemoryDisk.ts"
import {
  applyEdit,
  type DirectoryNode,
  type DiskNode,
  DiskWorld,
  type FileNode,
  nameKey,
  type PendingResize,
  type PendingWrite
} from "./diskWorld.ts"

/**
 * Decides what is kept. It is asked in a fixed order, so that the same answers give the same disk.
 *
 * @internal
 */
export interface CrashChooser {
  readonly keepName: (change: NameChange) => boolean
  /** Called before the questions about a file. */
  readonly beginFile: (path: string) => {
    /** Blocks are aligned to this; `Infinity` makes every write one block. */
    readonly blockBytes: number
    /** How many of the file's `changes` of size are kept. */
    readonly keptResizes: (changes: number) => number
    readonly keepBlock: (block: UnsyncedBlock) => boolean
    /** The order in which `count` unsynced writes land: indexes, or `undefined` for the order they were made in. */
    readonly landingOrder: (count: number) => ReadonlyArray<number> | undefined
    /** How many of the `length` bytes of the last block that is kept of the last write are there. */
    readonly keptOfLastBlock: (length: number) => number
  }
}

interface Block {
  readonly position: number
  readonly bytes: Uint8Array
}

/**
 * The number of things that a power loss decides: blocks, whole writes, changes of size per file, names.
 *
 * @internal
 */
export const countUnsettled = (world: DiskWorld, blockBytes: number) => {
  const resizes: Array<number> = []
  let writes = 0
  let blocks = 0
  for (const file of reachableFiles(world)) {
    if (file.pending.length === 0) continue
    resizes.push(resizesOf(file).size)
    for (const op of file.pending) {
      if (op.kind !== "write" || op.data !== "dirty") continue
      writes++
      blocks += Math.floor((op.position + op.bytes.length - 1) / blockBytes) - Math.floor(op.position / blockBytes) + 1
    }
  }
  return { writes, blocks, resizes, names: world.pendingNames.length }
}

/** The files that some power loss can leave, in a fixed order. */
const reachableFiles = (world: DiskWorld): ReadonlyArray<FileNode> => {
  const seen = new Set<DiskNode>()
  const files: Array<FileNode> = []
  const visit = (node: DiskNode | undefined) => {
    if (node === undefined || seen.has(node)) return
    seen.add(node)
    if (node.kind === "file") {
      files.push(node)
      return
    }
    for (const child of node.entries.values()) visit(child)
    for (const child of node.durable.values()) visit(child)
  }
  visit(world.root)
  for (const pending of world.pendingNames) for (const edit of pending.edits) visit(edit.node)
  return files.toSorted((a, b) => a.id - b.id)
}

/** One sentence per change that a power loss may take or keep. */
export const describeUnsettled = (world: DiskWorld): ReadonlyArray<string> => {
  const lines: Array<string> = []
  for (const file of reachableFiles(world)) {
    if (file.hasLostWrites) lines.push(`${file.path}: a failed sync lost writes that can still be read`)
    for (const op of file.pending) {
      if (op.kind === "write") {
        lines.push(`${file.path}: write of ${op.bytes.length} bytes at ${op.position} is ${op.data}`)
      } else lines.push(`${file.path}: ${op.kind} to ${op.size} bytes is not synced`)
    }
  }
  for (const { change } of world.pendingNames) {
    const target = change.kind === "rename" ? ` to ${change.toPath}` : ""
    lines.push(`${change.path}: ${change.kind}${target} is not synced`)
  }
  return lines
}

/**
 * The world after a power loss. The given one is not changed.
 *
 * @internal
 */
export const crashedWorld = (world: DiskWorld, chooser: CrashChooser): DiskWorld => {
  const names = new Map<DirectoryNode, Map<string, DiskNode>>()
  const namesOf = (directory: DirectoryNode): Map<string, DiskNode> => {
    let entries = names.get(directory)
    if (entries === undefined) {
      entries = new Map(directory.durable)
      names.set(directory, entries)
    }
    return entries
  }

  const dropped = new Set<string>()
  for (const pending of world.pendingNames) {
    const isPossible = !pending.edits.some((edit) => dropped.has(nameKey(edit)))
    if (isPossible && chooser.keepName(pending.change)) {
      for (const edit of pending.edits) applyEdit(namesOf(edit.directory), edit)
    } else {
      for (const edit of pending.edits) dropped.add(nameKey(edit))
    }
  }

  const built = new Map<FileNode, FileNode>()
  const buildFile = (file: FileNode, path: string): FileNode => {
    let twin = built.get(file)
    if (twin === undefined) {
      const image = crashedImage(file, chooser)
      twin = {
        kind: "file",
        id: file.id,
        path,
        current: image,
        durable: image.fork(),
        pending: [],
        hasLostWrites: false
      }
      built.set(file, twin)
    }
    return twin
  }
  const buildDirectory = (directory: DirectoryNode): DirectoryNode => {
    const entries = new Map<string, DiskNode>()
    const prefix = directory.path === "/" ? "/" : `${directory.path}/`
    for (const [name, node] of namesOf(directory)) {
      entries.set(name, node.kind === "file" ? buildFile(node, prefix + name) : buildDirectory(node))
    }
    return { kind: "directory", id: directory.id, path: directory.path, entries, durable: new Map(entries) }
  }
  return new DiskWorld(buildDirectory(world.root), world.sequence, world.nextId)
}

const sizeAfter = (op: PendingWrite | PendingResize, size: number): number => {
  if (op.kind === "write") return Math.max(size, op.position + op.bytes.length)
  return op.kind === "shrink" ? op.size : Math.max(size, op.size)
}

const isUnsyncedResize = (op: PendingWrite | PendingResize): boolean => op.kind !== "write" || !op.isSizeSynced

/** The pending changes of a file that change its size and are not durable, each with its place in the list. */
const resizesOf = (file: FileNode): ReadonlySet<number> => {
  const found = new Set<number>()
  let size = file.durable.size
  file.pending.forEach((op, index) => {
    const after = sizeAfter(op, size)
    if (after !== size && isUnsyncedResize(op)) found.add(index)
    size = after
  })
  return found
}

const crashedImage = (file: FileNode, chooser: CrashChooser) => {
  const image = file.durable.fork()
  if (file.pending.length === 0) return image
  const choice = chooser.beginFile(file.path)
  const resizes = resizesOf(file)
  let resizesLeft = choice.keptResizes(resizes.size)
  const blocks = keptBlocks(file, choice)

  // Bytes may stand behind `size` for a while: a later extension that is kept makes them readable.
  let size = file.durable.size
  let landing: Array<ReadonlyArray<Block>> = []
  const land = () => {
    const order = choice.landingOrder(landing.length) ?? landing.keys()
    for (const index of order) for (const block of landing[index] ?? []) image.write(block.bytes, block.position)
    landing = []
  }
  file.pending.forEach((op, index) => {
    const isResizeKept = resizes.has(index) && resizesLeft-- > 0
    if (op.kind === "write") {
      const kept = blocks.get(op)
      if (kept !== undefined) landing.push(kept)
      // A sync covers all earlier writes, so that nothing waits to land before this one.
      else if (op.data === "synced") image.write(op.bytes, op.position)
      if (isResizeKept || op.isSizeSynced) size = sizeAfter(op, size)
      return
    }
    if (!isResizeKept) return
    land()
    if (op.kind === "shrink") image.resize(Math.min(image.size, op.size))
    size = sizeAfter(op, size)
  })
  land()
  image.resize(size)
  return image
}

/** The blocks of each dirty write that reached the disk. */
const keptBlocks = (
  file: FileNode,
  choice: ReturnType<CrashChooser["beginFile"]>
): ReadonlyMap<PendingWrite, ReadonlyArray<Block>> => {
  const kept = new Map<PendingWrite, ReadonlyArray<Block>>()
  const dirty = file.pending.filter((op) => op.kind === "write" && op.data === "dirty")
  let write = 0
  for (const op of dirty) {
    if (op.kind !== "write") continue
    const blocks: Array<Block> = []
    const end = op.position + op.bytes.length
    let start = op.position
    while (start < end) {
      const stop = Math.min(
        end,
        Number.isFinite(choice.blockBytes)
          ? (Math.floor(start / choice.blockBytes) + 1) * choice.blockBytes
          : end
      )
      if (choice.keepBlock({ path: file.path, write, position: start, length: stop - start })) {
        blocks.push({ position: start, bytes: op.bytes.subarray(start - op.position, stop - op.position) })
      }
      start = stop
    }
    write++
    const last = blocks.at(-1)
    if (write === dirty.length && last !== undefined) {
      blocks[blocks.length - 1] = { ...last, bytes: last.bytes.subarray(0, choice.keptOfLastBlock(last.bytes.length)) }
    }
    kept.set(op, blocks)
  }
  return kept
}
