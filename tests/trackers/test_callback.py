import stat
import threading

import pytest

from dispatcher.core.callback import KEY_BYTES
from dispatcher.errors import ConfigError
from dispatcher.trackers.callback import fresh_key, keep_key


class TestKey:
    def test_it_is_made_once_and_read_afterwards(self, tmp_path):
        path = tmp_path / "journal.db.callback-key"
        key = keep_key(path)
        assert len(key) == KEY_BYTES
        assert keep_key(path) == key
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(tmp_path.iterdir()) == [path]

    def test_two_that_make_it_at_the_same_time_get_the_same(self, tmp_path):
        keys: list[bytes] = []
        path = tmp_path / "key"
        threads = [threading.Thread(target=lambda: keys.append(keep_key(path))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(keys) == 8
        assert len(set(keys)) == 1
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("content", [b"", b"short", bytes(KEY_BYTES + 1)])
    def test_a_file_that_holds_no_key_is_left_alone(self, tmp_path, content):
        path = tmp_path / "key"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match="holds no callback key"):
            keep_key(path)
        assert path.read_bytes() == content

    def test_a_key_that_others_may_read_is_refused(self, tmp_path):
        path = tmp_path / "key"
        keep_key(path)
        path.chmod(0o640)
        with pytest.raises(ConfigError, match="chmod 600"):
            keep_key(path)

    def test_a_folder_that_is_missing_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match="nowhere"):
            keep_key(tmp_path / "nowhere" / "key")

    def test_fresh_keys_differ(self):
        assert fresh_key() != fresh_key()
