/**
 * What native mode asks of the disk with nothing around it: each commit is a new file, a batch is the syncs of its files,
 * the sync of their directory, and one small write and sync in the name of all of them. Old files are removed beside it.
 * No hash, no conflict check, no index, no page ever copied, no Effect.
 */
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"
import type { Contestant } from "./rounds.ts"
import { writeInPromises } from "./writers.ts"

/** A capsule of one page of 4 KiB. */
const capsuleBytes = 4282
const markerBytes = 88

interface Written {
  readonly file: NodeFs.promises.FileHandle
  readonly path: string
  readonly done: () => void
}

const makeStore = async (directory: string) => {
  const names = await NodeFs.promises.open(directory, "r")
  const markers = await NodeFs.promises.open(NodePath.join(directory, "markers"), "w")
  let waiting: Array<Written> = []
  let running: Promise<void> | undefined
  let removing: Promise<unknown> = Promise.resolve()
  let files = 0

  const writeBatches = async () => {
    for (let batch = waiting; batch.length > 0; batch = waiting) {
      waiting = []
      await Promise.all(batch.map(({ file }) => file.datasync()))
      await names.sync()
      await markers.write(new Uint8Array(batch.length * markerBytes))
      await markers.datasync()
      for (const { done } of batch) done()
      removing = Promise.all([
        removing,
        ...batch.map(async ({ file, path }) => {
          await file.close()
          await NodeFs.promises.unlink(path)
        })
      ])
      // Who was woken writes his next file before the next batch is cut.
      await new Promise((resolve) => setImmediate(resolve))
    }
    running = undefined
  }

  return {
    commit: async (page: Uint8Array): Promise<void> => {
      const path = NodePath.join(directory, `${files++}`)
      const file = await NodeFs.promises.open(path, "wx")
      await file.write(page)
      await new Promise<void>((done) => {
        waiting.push({ file, path, done })
        running ??= writeBatches()
      })
    },
    close: async () => {
      await running
      await removing
      await markers.close()
      await names.close()
    }
  }
}

export const newFiles: Contestant = {
  name: "new files",
  open: async ({ directory, writers }) => {
    const store = await makeStore(directory)
    const pages = Array.from({ length: writers }, () => {
      const bytes = new Uint8Array(capsuleBytes)
      return { bytes, count: () => bytes.fill((bytes[0] ?? 0) + 1) }
    })
    return {
      run: (loop) => writeInPromises(loop, pages, ({ bytes }) => store.commit(bytes)),
      close: store.close
    }
  }
}
